"""What we ask the org to do."""
