"""The operator's door: one module per group of commands."""
