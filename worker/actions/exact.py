"""JSON with exact numbers, under its former name: see `worker.exact`."""

from worker.exact import dumps, loads

__all__ = ["dumps", "loads"]
