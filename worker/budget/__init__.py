"""One budget per org: who may call, what was spent on what, and how often mirrors may be refreshed."""
