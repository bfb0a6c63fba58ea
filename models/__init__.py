"""What we keep: our own tables."""
