"""Peak memory of a process that loads many rows beside one that loads few: `python -m bench.memory --rows 10000000`.

It must not grow with the table: at most 32 MiB between the two. The disk is looked at first: an org, its result files and the
mirror take about BYTES_A_ROW for each contact. Exits 1 when the limit is passed.
"""

import argparse
import shutil
import sys
import tempfile
from contextlib import ExitStack

from bench.__main__ import start
from bench.measure import Cost, end_in_order

FEW = 10_000
MOST_MIB = 32
BYTES_A_ROW = 4_500


def check_disk(rows: int) -> None:
    """Refuse what would not fit, before an hour was spent on it."""
    free, needed = shutil.disk_usage(tempfile.gettempdir()).free, rows * BYTES_A_ROW
    if free < needed:
        sys.exit(f"{rows:,} rows need about {needed >> 30} GiB in {tempfile.gettempdir()}; {free >> 30} GiB are free")


def load(rows: int) -> Cost:
    """What one load of so many rows costs, in a process of its own."""
    with ExitStack() as cleanup:
        bench = start(cleanup, rows, rows)
        return bench.ours(bench.run_id())


def main() -> None:
    """Load few, load many, compare."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    end_in_order()
    check_disk(options.rows)
    few, many = load(FEW), load(options.rows)
    grown = many.peak_mib - few.peak_mib
    for rows, cost in ((FEW, few), (options.rows, many)):
        print(f"{rows:>12,} rows: peak {cost.peak_mib:.0f} MiB, {rows / cost.seconds:,.0f} rows/s")
    print(f"grown by {grown:.0f} MiB (at most {MOST_MIB})")
    sys.exit(0 if grown <= MOST_MIB else 1)


if __name__ == "__main__":
    main()
