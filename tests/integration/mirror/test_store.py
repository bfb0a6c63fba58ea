"""Mirror tables on a real Postgres: pages by COPY, awkward values, the merge, suspects."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from tests.integration.mirror.things import SCHEMA, Things, Wire, described, page, record_id, row, spec, stamp
from worker.db import Database, raw
from worker.errors import SchemaChangedError, TransientError
from worker.mirror import ddl, intake, store, suspects, tables
from worker.mirror.schema import table_spec


@pytest.fixture
def things(database: Database) -> Things:
    return Things(database)


def test_an_applied_plan_leaves_an_empty_plan(things: Things, database: Database) -> None:
    with database.transaction() as session:
        assert ddl.plan(things.spec, tables.existing(session, SCHEMA, "thing"), schema=SCHEMA) == []


def test_a_field_that_came_is_added_and_one_that_went_stays(things: Things, database: Database) -> None:
    later = spec({"Id": "id", "Colour__c": "picklist", "SystemModstamp": "datetime"})
    with database.transaction() as session:
        tables.ensure_table(session, later, SCHEMA)
        found = tables.existing(session, SCHEMA, "thing")
        assert found is not None
        assert found["colour__c"] == "text"
        assert found["amount"] == "numeric"
        assert ddl.plan(later, found, schema=SCHEMA) == []


def test_values_arrive_exactly(things: Things) -> None:
    awkward = 'say "hi",\nö😀\t#N/A'
    wire = Wire(page([row(1, 5, Name=awkward, Amount="123456789012345678.90", Count="7", Born="2024-02-29")]), rows=1)
    assert things.load(wire).rows == 1
    found = things.query(
        "SELECT id, name, amount, count, born::text, systemmodstamp, masterrecordid, _read FROM salesforce.thing"
    )
    moment = datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
    assert found == [(record_id(1), awkward, Decimal("123456789012345678.90"), 7, "2024-02-29", moment, None, 1)]


def test_doubles_are_read_as_the_org_prints_them(things: Things) -> None:
    rows = [row(1, 5, Amount="1.0E-7"), row(2, 5, Amount="1.5E15"), row(3, 5, Amount="-0.0")]
    assert things.load(Wire(page(rows), rows=3)).rows == 3
    assert things.query("SELECT amount FROM salesforce.thing ORDER BY id") == [
        (Decimal("0.00000010"),),
        (Decimal(1_500_000_000_000_000),),
        (Decimal(0),),
    ]


def test_bytes_that_are_no_text_are_replaced_and_the_page_goes_on(things: Things) -> None:
    broken = page([row(1, 5, Name="half of a pair: ?."), row(2, 5, Name="whole")]).replace(b"?", b"\xed\xa0\xbd")
    assert things.load(Wire(broken, rows=2)).rows == 2
    assert things.names() == {record_id(1): "half of a pair: \ufffd\ufffd\ufffd.", record_id(2): "whole"}


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_chunks_may_end_anywhere(things: Things, size: int) -> None:
    rows = [row(n, 1, Name=f"née {n}\nline") for n in range(20)]
    assert things.load(Wire(page(rows), rows=20, size=size)).rows == 20
    assert things.names()[record_id(3)] == "née 3\nline"


@pytest.mark.parametrize("data", [b"", page([]), page([]).rstrip(b"\n")])
def test_a_result_without_rows_is_no_fault(things: Things, data: bytes) -> None:
    assert things.load(Wire(data, rows=0)).rows == 0


def test_a_page_cut_at_a_row_end_is_refused(things: Things) -> None:
    whole = page([row(n, 1) for n in range(10)])
    cut = whole[: whole.rindex(b'"a00')]
    with pytest.raises(TransientError, match="9 rows where the org counts 10"):
        things.load(Wire(cut, rows=10))
    assert things.names() == {}


def test_a_page_with_other_columns_is_refused(things: Things) -> None:
    fields = [*things.spec.fields[:-1], "Surprise__c"]
    with pytest.raises(SchemaChangedError, match="surprise__c"):
        things.load(Wire(page([row(1, 1)], fields)))


def test_columns_in_another_order_and_case_are_the_same_columns(things: Things) -> None:
    data = page([row(1, 1, Name="x")], list(reversed(things.spec.fields)))
    head, _, body = data.partition(b"\n")
    assert things.load(Wire(head.upper() + b"\n" + body)).rows == 1
    assert things.names() == {record_id(1): "x"}


def test_nul_bytes_are_removed_and_counted(things: Things) -> None:
    taken = things.load(Wire(page([row(1, 1, Name="a\0b\0")]), rows=1))
    assert taken.nul_bytes == 2
    assert things.names() == {record_id(1): "ab"}


def test_a_value_that_does_not_fit_widens_its_column(things: Things, database: Database) -> None:
    rows = [row(1, 1, Count="99999999999999999999", Born="someday"), row(2, 1, Count="1", Born="2024-02-29")]
    assert things.load(Wire(page(rows), rows=2)).rows == 2
    assert things.query("SELECT count, born FROM salesforce.thing ORDER BY id") == [
        (Decimal("99999999999999999999"), "someday"),
        (Decimal(1), "2024-02-29"),
    ]
    with database.transaction() as session:
        assert ddl.plan(things.spec, tables.existing(session, SCHEMA, "thing"), schema=SCHEMA) == []


def test_a_value_that_does_not_fit_widens_the_mirror_of_a_staging_table_too(things: Things, database: Database) -> None:
    with database.transaction() as session:
        tables.make_staging(session, things.spec, SCHEMA, "_staging_1")
        taken = intake.take_in(session, things.target(3, "_staging_1"), Wire(page([row(1, 1, Count="1.5")])).open)
        assert taken.rows == 1
        found = tables.existing(session, SCHEMA, "thing")
        assert found is not None
        assert found["count"] == "numeric"


def test_a_record_that_was_merged_before_its_page_came_keeps_the_newer_version(things: Things) -> None:
    things.merge([row(1, 9, Name="newer")], read=2)
    things.load(Wire(page([row(1, 5, Name="older"), row(2, 5, Name="two")]), rows=2), read=1)
    assert things.names() == {record_id(1): "newer", record_id(2): "two"}


def test_a_row_too_wide_for_postgres_is_kept_apart_and_the_rest_goes_on(database: Database) -> None:
    wide = {f"F{n}__c": "string" for n in range(600)}
    one_table = {name.lower(): 1 for name in ("Id", *wide, "SystemModstamp")}  # as an earlier version made it
    fields = {"Id": "id", **wide, "SystemModstamp": "datetime"}
    things = Things(database, table_spec(described(fields), layout=one_table))
    full = dict.fromkeys(wide, "x" * 60)
    rows = [row(1, 1), {**row(2, 1), **full}, row(3, 1)]
    taken = things.load(Wire(page(rows, list(things.spec.fields)), rows=3))
    assert (taken.rows, [one["id"] for one in taken.rejects]) == (3, [record_id(2)])
    assert taken.rejects[0]["reason"].startswith("54000")
    assert things.query("SELECT count(*) FROM salesforce.thing") == [(2,)]


def test_older_news_never_wins(things: Things) -> None:
    things.merge([row(1, 5, Name="five")], read=5)
    assert things.merge([row(1, 4, Name="four")], read=9).changed == 0
    assert things.names() == {record_id(1): "five"}


def test_among_equal_stamps_the_later_read_wins_in_either_order(things: Things) -> None:
    things.merge([row(1, 5, Name="second")], read=7)
    things.merge([row(1, 5, Name="first")], read=6)
    assert things.names() == {record_id(1): "second"}
    things.merge([row(1, 5, Name="third")], read=8)
    assert things.names() == {record_id(1): "third"}


def test_rows_that_did_not_change_are_not_written(things: Things) -> None:
    rows = [row(n, 5, Name="same") for n in range(5)]
    assert things.merge(rows, read=2).changed == 5
    assert things.merge(rows, read=3).changed == 0


def test_a_confirmed_value_is_not_undone_by_an_earlier_read_on_its_way(things: Things) -> None:
    things.merge([row(1, 5, Name="A")], read=5)
    things.merge([row(1, 5, Name="A")], read=9)
    things.merge([row(1, 5, Name="B")], read=7)
    assert things.names() == {record_id(1): "A"}


def test_deleted_and_merged_records_leave_and_stay_as_tombstones(things: Things) -> None:
    things.merge([row(n, 1) for n in range(3)], read=1)
    gone = [row(0, 2, IsDeleted="true"), row(1, 2, IsDeleted="true", MasterRecordId=record_id(2))]
    assert things.merge(gone, read=2).deleted == 2
    assert list(things.names()) == [record_id(2)]
    assert things.tombstones() == {record_id(0): ("deleted", None), record_id(1): ("merged", record_id(2))}


def test_a_tombstone_keeps_older_rows_out_and_gives_way_to_newer_ones(things: Things) -> None:
    things.merge([row(1, 5, IsDeleted="true")], read=5)
    things.merge([row(1, 4, Name="before")], read=6)
    things.merge([row(1, 5, Name="same second, earlier read")], read=4)
    assert things.names() == {}
    things.merge([row(1, 5, Name="undeleted")], read=7)
    assert things.names() == {record_id(1): "undeleted"}
    assert things.tombstones() == {}


def test_of_a_record_read_twice_the_newest_version_is_taken(things: Things) -> None:
    things.merge([row(1, 6, Name="new"), row(1, 5, Name="old"), row(2, 5), row(2, 6, IsDeleted="true")], read=1)
    assert things.names() == {record_id(1): "new"}


def test_a_record_that_was_not_found_by_id_is_buried_unless_a_later_read_saw_it(
    things: Things, database: Database
) -> None:
    things.merge([row(1, 1)], read=1)
    things.merge([row(2, 1)], read=9)
    with database.transaction() as session:
        ids = [record_id(1), record_id(2), record_id(3)]
        assert store.leave(session, things.target(5), ids, datetime(2026, 1, 2, tzinfo=UTC)) == 1
    assert list(things.names()) == [record_id(2)]
    assert things.tombstones() == {record_id(1): ("invisible", None)}


def test_rows_deleted_during_a_first_load_leave_at_its_end(things: Things, database: Database) -> None:
    things.merge([row(1, 9, IsDeleted="true")], read=2)
    things.load(Wire(page([row(1, 5), row(2, 5)]), rows=2), read=1)
    with database.transaction() as session:
        tables.finish_table(session, things.spec, SCHEMA)
    assert list(things.names()) == [record_id(2)]
    indexes = {one[0] for one in things.query("SELECT indexname FROM pg_indexes WHERE schemaname = 'salesforce'")}
    assert {"ix_thing_systemmodstamp_id", "ix_thing_masterrecordid", "thing_pkey"} <= indexes


def test_the_comparison_finds_what_differs_is_missing_or_is_too_many(things: Things, database: Database) -> None:
    things.merge([row(1, 1, Name="spoilt"), row(2, 1, Name="same"), row(3, 1)], read=1)
    with database.transaction() as session:
        tables.make_staging(session, things.spec, SCHEMA, "_staging_1")
        target = things.target(2, "_staging_1")
        rows = [row(1, 1, Name="right"), row(2, 1, Name="same"), row(2, 1, Name="same"), row(4, 1)]
        intake.take_in(session, target, Wire(page(rows)).open)
        assert suspects.make(session, target, "_suspects_1", compared=things.spec.names) == 3
        assert suspects.unjudged(session, SCHEMA, "_suspects_1", 9) == [record_id(n) for n in (1, 3, 4)]


def test_a_second_look_decides_what_moved_and_what_differs(things: Things, database: Database) -> None:
    things.merge([row(n, 1, Name="here") for n in (1, 2, 3, 5, 6)], read=1)
    ids = [record_id(n) for n in range(1, 8)]
    looked = [
        row(1, 1, Name="here"),  # equal by now
        row(2, 1, Name="org"),  # differs
        row(3, 30, Name="just changed"),
        row(4, 1),  # missing here
        row(5, 1, IsDeleted="true"),  # too many here
        row(7, 1, IsDeleted="true"),  # deleted there, not here
    ]  # 6: not there at all
    with database.transaction() as session:
        tables.make_staging(session, things.spec, SCHEMA, "_none")
        suspects.make(session, things.target(2, "_none"), "_s", compared=things.spec.names)
        raw(session).execute(
            "INSERT INTO salesforce._s SELECT id, 'missing' FROM unnest(%s::text[]) id ON CONFLICT DO NOTHING", (ids,)
        )
        staged, _ = intake.look(session, things.target(3), [page(looked)])
        since = datetime(2026, 1, 1, 0, 0, 20, tzinfo=UTC)
        suspects.judge(session, staged, "_s", ids, compared=things.spec.names, since=since)
        assert suspects.counts(session, SCHEMA, "_s") == {"moved": 3, "different": 1, "missing": 1, "surplus": 2}
        assert suspects.differing(session, staged, record_id(2), things.spec.names) == [
            {"field": "name", "org": "org", "mirror": "here"}
        ]


def test_a_repair_holds_against_a_newer_stamp_here_but_not_against_a_later_read(
    things: Things, database: Database
) -> None:
    things.merge([row(1, 50, Name="from nowhere")], read=1)
    things.merge([row(2, 50, Name="later read")], read=9)
    with database.transaction() as session:
        target = things.target(5)
        staged, _ = intake.look(session, target, [page([row(1, 5, Name="org"), row(2, 5, Name="org")])])
        store.forget(session, target, [record_id(1), record_id(2)])
        assert staged.staging is not None
        store.merge(session, target, staged.staging, young=None)
    assert things.names() == {record_id(1): "org", record_id(2): "later read"}
    assert stamp(5)
