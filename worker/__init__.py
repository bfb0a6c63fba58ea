"""The worker: how the work is done. Doors, wiring, use cases and edges; see docs/architecture.md."""
