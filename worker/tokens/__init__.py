"""Keeping, reading and renewing the tokens of connections."""
