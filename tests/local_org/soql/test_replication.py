"""getUpdated and getDeleted. Source: SOAP API Developer Guide, "Data Replication"."""

import pytest

from local_org import replication
from local_org.errors import ApiError
from local_org.values import datetime_text

MINUTE, DAY = 60_000, 86_400_000


def window(caller, start_ms: int, end_ms: int):
    now = caller.org.store.clock.now_ms()
    texts = {"start": datetime_text(now + start_ms), "end": datetime_text(now + end_ms)}
    return caller.context(query=texts)


def updated(caller, start_ms: int, end_ms: int):
    return replication.updated(window(caller, start_ms, end_ms), "account")


def deleted(caller, start_ms: int, end_ms: int):
    return replication.deleted(window(caller, start_ms, end_ms), "Account")


def refused(call, caller, start_ms: int, end_ms: int) -> str:
    with pytest.raises(ApiError) as caught:
        call(caller, start_ms, end_ms)
    assert (caught.value.status, caught.value.code) == (400, "INVALID_REPLICATION_DATE")
    return caught.value.message


def test_updated_has_created_and_changed_rows_but_no_deleted_ones(caller) -> None:
    now = caller.org.store.clock.now_ms()
    old, new, gone = (caller.add("Account", Name=name) for name in ("old", "new", "gone"))
    caller.change("Account", old, SystemModstamp=now - 10 * MINUTE)
    caller.change("Account", gone, IsDeleted=1)
    assert updated(caller, -5 * MINUTE, MINUTE)["ids"] == [new]
    assert set(updated(caller, -10 * MINUTE, MINUTE)["ids"]) == {old, new}


def test_times_are_cut_to_the_minute(caller) -> None:
    now = caller.org.store.clock.now_ms()
    row = caller.add("Account", Name="x")
    caller.change("Account", row, SystemModstamp=now - 2 * MINUTE)
    assert updated(caller, -2 * MINUTE + 59_000, MINUTE)["ids"] == [row]


def test_covered_is_never_after_now_nor_after_the_end(caller) -> None:
    now = caller.org.store.clock.now_ms()
    assert updated(caller, -DAY, DAY)["latestDateCovered"] == datetime_text(now)
    assert updated(caller, -DAY, -MINUTE)["latestDateCovered"] == datetime_text(now - MINUTE)


def test_covered_stops_where_the_oldest_open_transaction_began(caller) -> None:
    now = caller.org.store.clock.now_ms()
    row = {"Id": "001Lo0000000009IAA", "Name": "late", "SystemModstamp": now - 3 * MINUTE, "IsDeleted": 0}
    store = caller.org.store
    with store.write() as conn:
        store.add_late(conn, now + MINUTE, now - 3 * MINUTE, [("Account", row["Id"], row)])
    found = updated(caller, -10 * MINUTE, MINUTE)
    assert (found["ids"], found["latestDateCovered"]) == ([], datetime_text(now - 3 * MINUTE))
    store.clock.advance(2 * MINUTE)
    found = updated(caller, -10 * MINUTE, MINUTE)
    assert (found["ids"], found["latestDateCovered"]) == ([row["Id"]], datetime_text(now + 2 * MINUTE))


def test_updated_reaches_back_thirty_days_and_deleted_fifteen(caller) -> None:
    updated(caller, -30 * DAY, 0)
    assert "30 days" in refused(updated, caller, -30 * DAY - 2 * MINUTE, 0)
    deleted(caller, -15 * DAY, 0)
    assert "15 days" in refused(deleted, caller, -15 * DAY - 2 * MINUTE, 0)


def test_the_start_lies_before_the_end(caller) -> None:
    assert refused(updated, caller, 0, 0) == "startDate must be before endDate"
    refused(deleted, caller, 0, -MINUTE)
    assert "one minute" in refused(deleted, caller, -MINUTE, 0)


def test_deleted_has_id_and_date_and_how_far_the_log_reaches(caller) -> None:
    now = caller.org.store.clock.now_ms()
    row = caller.add("Account", Name="x", IsDeleted=True)
    with caller.org.store.write() as conn:
        conn.execute("INSERT INTO _deletions (object, id, at_ms, root) VALUES ('Account', ?, ?, ?)", (row, now, row))
    found = deleted(caller, -5 * MINUTE, MINUTE)
    assert found["deletedRecords"] == [{"id": row, "deletedDate": datetime_text(now)}]
    assert found["earliestDateAvailable"] == datetime_text(now - 15 * DAY)
    assert found["latestDateCovered"] == datetime_text(now)
    assert deleted(caller, -10 * MINUTE, -5 * MINUTE)["deletedRecords"] == []


def test_an_unescaped_plus_is_understood(caller) -> None:
    now = caller.org.store.clock.now_ms()
    start = datetime_text(now - DAY).replace(".000+0000", " 00:00")
    found = replication.updated(caller.context(query={"start": start, "end": datetime_text(now)}), "Account")
    assert found["ids"] == []


def test_an_unknown_object_is_not_found(caller) -> None:
    with pytest.raises(ApiError) as caught:
        replication.updated(window(caller, -DAY, 0), "Nope")
    assert caught.value.status == 404
