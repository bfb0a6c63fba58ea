"""Callbacks: telling callers over HTTP what became of what they asked for (Standard Webhooks)."""
