"""The demo: the main job as a user would do it, by the same commands and over the same wires, with proof at the end."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from rich.panel import Panel

from worker.cli.demo import chapters, trouble
from worker.cli.demo.story import Demo
from worker.cli.output import console
from worker.supervisor import full_stack

# Short, so that a person sees things happen: how often mirrors are refreshed, how long a call may take. The latter is
# also how long the writes of a worker that died are left alone: its call could still land.
SETTINGS = {"SFSYNC_REFRESH_SECONDS": "5", "SFSYNC_REQUEST_SECONDS": "10"}


def run_demo(folder: Path, seed: str, *, quiet: bool) -> dict[str, Any]:
    """Tell the whole story; the report has "ok", figures and where to look."""
    begin = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SALESFORCE_", "SFSYNC_"))}
    environ = {**inherited, **SETTINGS}
    if not quiet:
        console.print(Panel("sfsync: the main job, from nothing, on a local org", style="bold", expand=False))
        console.print("Starting PostgreSQL, Valkey, the local org, three workers, beat, the shim and Flower ...")
    with full_stack(folder, environ, org_options=("--seed", seed)) as stack:
        demo = Demo(stack, quiet)
        chapters.show_parts(demo, time.monotonic() - begin)
        chapters.connect(demo)
        chapters.mirror(demo)
        chapters.changes(demo)
        trouble.drift(demo)
        chapters.writes(demo)
        trouble.crowd(demo)
        trouble.timetable(demo)
        chapters.prove(demo)
        trouble.manners(demo)
        chapters.end(demo, time.monotonic() - begin)
        return demo.report
