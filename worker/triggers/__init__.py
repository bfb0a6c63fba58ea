"""Triggers: due times, firings, and the work that they start."""
