"""Old runs go, and most of those that found nothing after a day; what is kept is found by an index."""

from datetime import timedelta

from tests.integration.conftest import Rows
from worker.db import Database
from worker.mirror.retention import forget_old

RUN = """
INSERT INTO sfsync.runs (mirror_id, kind, lane, cause, state, finished_at, rows_changed)
SELECT %s, 'refresh', 'refresh', %s, 'done', clock_timestamp() - make_interval(hours => %s), %s RETURNING id
"""


def test_old_runs_go_and_those_that_found_nothing_after_a_day(
    database: Database, connection_id: int, rows: Rows
) -> None:
    ((mirror,),) = rows(
        "INSERT INTO sfsync.mirrors (connection_id, object, table_name) VALUES (%s, 'Contact', 'contact') RETURNING id",
        connection_id,
    )
    kept = [
        rows(RUN, mirror, cause, hours, changed)[0][0]
        for cause, hours, changed in (
            ("timetable", 23, 0),
            ("timetable", 25, 1),
            ("manual", 24, 0),
            ("manual", 7 * 24 - 1, 0),
        )
    ]
    gone = [
        rows(RUN, mirror, cause, hours, changed)[0][0]
        for cause, hours, changed in (("timetable", 24, 0), ("timetable", 7 * 24, 5), ("manual", 1000, 0))
    ]
    rows(
        "INSERT INTO sfsync.rejects (mirror_id, run_id, record_id, record, reason) VALUES (%s, %s, 'x', '{}', 'y')",
        mirror,
        gone[-1],
    )
    ((ready,),) = rows(
        "INSERT INTO sfsync.runs (mirror_id, kind, lane, cause) VALUES (%s, 'load', 'backfill', 'manual') RETURNING id",
        mirror,
    )
    with database.transaction() as session:
        forget_old(session, timedelta(days=7))
    assert [row[0] for row in rows("SELECT id FROM sfsync.runs ORDER BY id")] == sorted([*kept, ready])
    assert rows("SELECT run_id FROM sfsync.rejects") == [(None,)]
