"""Benchmarks: our way beside the plain way, side by side in one run. `python -m bench --help`."""
