"""Old runs, verifications and syncs go; runs that found nothing after a day; what is shown stays."""

from datetime import timedelta

from tests.integration.conftest import Rows
from worker.db import Database
from worker.mirror.retention import forget_old

RUN = """
INSERT INTO sfsync.runs (mirror_id, kind, lane, cause, state, finished_at, rows_changed)
SELECT %s, 'refresh', 'refresh', %s, 'done', clock_timestamp() - make_interval(hours => %s), %s RETURNING id
"""


MIRROR = "INSERT INTO sfsync.mirrors (connection_id, object, table_name) VALUES (%s, %s, %s) RETURNING id"
VERIFICATION = """
INSERT INTO sfsync.verifications (mirror_id, depth, started_at, finished_at, records, fields, differences, missing, surplus, moved,
                                  repaired, calls)
VALUES (%s, %s, now(), clock_timestamp() - make_interval(hours => %s), 0, 0, 0, 0, 0, 0, 0, 0) RETURNING id
"""
SYNC = """
INSERT INTO sfsync.syncs (id, connection_id, created_at)
VALUES (gen_random_uuid(), %s, clock_timestamp() - make_interval(hours => %s)) RETURNING id
"""
WEEK = 7 * 24


def test_old_verifications_go_but_the_newest_of_each_depth_stays(
    database: Database, connection_id: int, rows: Rows
) -> None:
    ((one,),), ((other,),) = (rows(MIRROR, connection_id, name, name.lower()) for name in ("Contact", "Account"))
    made = [
        (kept, rows(VERIFICATION, mirror, depth, hours)[0][0])
        for mirror, depth, hours, kept in (
            (one, "full", WEEK + 9, False),
            (one, "full", WEEK + 8, True),  # the last complete proof, however old
            (one, "sample", WEEK, False),
            (one, "sample", WEEK - 1, True),
            (one, "sample", 1, True),
            (other, "quick", 1000, True),
        )
    ]
    with database.transaction() as session:
        forget_old(session, timedelta(days=7))
    assert rows("SELECT id FROM sfsync.verifications ORDER BY id") == [(number,) for kept, number in made if kept]


def test_old_syncs_go_with_their_runs_and_never_before_each_other(
    database: Database, connection_id: int, rows: Rows
) -> None:
    ((mirror,),) = rows(MIRROR, connection_id, "Contact", "contact")
    ((failed,),) = rows(RUN, mirror, "manual", WEEK + 5, 0)
    ((joined,),) = rows(RUN, mirror, "timetable", 24, 0)  # it found nothing; the youngest sync had joined it
    ((open_run,),) = rows(
        "INSERT INTO sfsync.runs (mirror_id, kind, lane, cause) VALUES (%s, 'load', 'backfill', 'manual') RETURNING id",
        mirror,
    )
    ((old,),), ((at_work,),), ((newest,),) = (rows(SYNC, connection_id, hours) for hours in (WEEK, WEEK + 1, WEEK - 1))
    for sync, run in ((old, failed), (at_work, open_run), (newest, joined)):
        rows("INSERT INTO sfsync.sync_runs (sync_id, run_id) VALUES (%s, %s)", sync, run)
    for _ in range(2):
        with database.transaction() as session:
            forget_old(session, timedelta(days=7))
        assert {row[0] for row in rows("SELECT id FROM sfsync.syncs")} == {at_work, newest}
        assert {row[0] for row in rows("SELECT id FROM sfsync.runs")} == {joined, open_run}
    rows("UPDATE sfsync.syncs SET created_at = created_at - interval '1000 hours'")
    rows(
        "UPDATE sfsync.runs SET state = 'failed', finished_at = clock_timestamp() - interval '900 hours' WHERE id = %s",
        open_run,
    )
    with database.transaction() as session:
        forget_old(session, timedelta(days=7))
    assert rows("SELECT id FROM sfsync.syncs") == [(newest,)]  # old as it is: it is the one that is shown
    assert rows("SELECT id FROM sfsync.runs") == [(joined,)]


def test_old_runs_go_and_those_that_found_nothing_after_a_day(
    database: Database, connection_id: int, rows: Rows
) -> None:
    ((mirror,),) = rows(MIRROR, connection_id, "Contact", "contact")
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
