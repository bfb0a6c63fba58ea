"""`python -m worker.cli`: the same as `sfsync`."""

from worker.cli.main import run

run()
