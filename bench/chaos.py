"""Chaos at a large size: `python -m bench.chaos [--actions 10000] [--seconds 60] [--ids keyed|none] [--redis flushed|absent]`.

Half creates, half updates, while workers are killed with -9, the org cuts connections after applying, answers 503, locks rows
and throttles; Redis is flushed twice, and in another run absent from the first second; each with and without external-id
fields in the org. Prints what was counted in the org and its ledger; exits 1 if anything is missing, doubled or out of order.
"""

import argparse
import random
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from models.migrations import upgrade
from tests.acceptance.chaos import ENV, USER, Chaos, Report, Size
from tests.acceptance.stack import start_stack
from worker.local_servers import EmbeddedPostgres, EmbeddedValkey, free_port


def one(folder: Path, size: Size, *, with_redis: bool) -> Report:
    """One run on servers of its own."""
    with ExitStack() as cleanup:
        postgres = cleanup.enter_context(EmbeddedPostgres(folder / "postgres", {}))
        upgrade(postgres.url)
        url = f"redis://127.0.0.1:{free_port()}/0"
        if with_redis:
            url = cleanup.enter_context(EmbeddedValkey(folder / "valkey")).url
        stack = cleanup.enter_context(start_stack(folder, postgres.url, url, seed="Account=3,Contact=3,Opportunity=3"))
        stack.env.update(ENV)
        stack.connect(USER)
        return Chaos(stack, size, random.randrange(10**9)).run(with_redis=with_redis)


def main() -> None:
    """Up to four runs and a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--actions", type=int, default=10_000)
    parser.add_argument("--records", type=int, default=500, help="that the updates are spread over")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long things go wrong")
    parser.add_argument("--ids", choices=("keyed", "none"), help="only with or without external-id fields in the org")
    parser.add_argument("--redis", choices=("flushed", "absent"), help="only with a Redis that forgets, or without")
    options = parser.parse_args()
    half = options.actions // 2
    table = Table(title=f"{options.actions:,} actions in chaos", title_justify="left")
    columns = (
        "external ids",
        "Redis",
        "states",
        "ways",
        "missing",
        "doubled",
        "wrong",
        "disordered",
        "kills",
        "faults",
    )
    for column in (*columns, "org calls", "s"):
        table.add_column(column)
    failed = False
    for keyed in (True, False) if options.ids is None else (options.ids == "keyed",):
        for with_redis in (True, False) if options.redis is None else (options.redis == "flushed",):
            size = Size(half, options.actions - half, options.records, options.seconds, keyed=keyed)
            with tempfile.TemporaryDirectory(prefix="sfsync-chaos-") as name:
                Path(name).chmod(0o755)  # PostgreSQL may run as another user
                report = one(Path(name), size, with_redis=with_redis)
            wrong = [len(part) for part in (report.missing, report.doubled, report.wrong, report.disordered)]
            failed = failed or any(wrong) or set(report.states) != {"delivered"}
            if any(wrong):
                print([part[:10] for part in (report.missing, report.doubled, report.wrong)], file=sys.stderr)
            table.add_row(
                "yes" if keyed else "none",
                "flushed twice" if with_redis else "absent",
                words(report.states),
                words(report.ways),
                *map(str, wrong),
                str(report.kills),
                str(report.faults),
                f"{report.calls:,}",
                f"{report.seconds:.0f}",
            )
            print(words(report.paths), report.phases, sep="\n", file=sys.stderr)
    Console(width=200).print(table)
    sys.exit(int(failed))


def words(counts: dict[str, int]) -> str:
    """delivered 10,000, …"""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))


if __name__ == "__main__":
    main()
