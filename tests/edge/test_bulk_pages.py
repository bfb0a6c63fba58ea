"""Result pages of Bulk query jobs: byte-exact, in pieces, and never short in silence."""

import gzip
from collections.abc import Iterator

import pytest

from tests.edge.scripted import Cut, Hang, Seen, Server, answer, client_of, script_of, serve
from worker.errors import NotFoundError, RejectedError, SchemaChangedError, TransientError
from worker.salesforce import bulk

JOB = "750000000000001AAA"
CSV = b'"Id","Name"\n' + b"".join(b'"%018d","N\xc3\xa4me, \x00 ""quoted""\n second line"\n' % n for n in range(50_000))


def headers(rows: object = 50_000, locator: str = "null") -> dict[str, str]:
    return {"Content-Type": "text/csv", "Sforce-NumberOfRecords": str(rows), "Sforce-Locator": locator}


def read(
    server: Server, locator: str | None = None, seconds: float = 20.0, silence: float = 20.0
) -> tuple[bytes, bulk.PageStream]:
    client = client_of(server, request_seconds=silence, page_seconds=seconds)
    with bulk.open_page(client, JOB, locator, 50_000) as page:
        return b"".join(page.chunks()), page


def chunked(data: bytes, size: int = 65_536) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        yield b"%x\r\n%s\r\n" % (len(piece), piece)


def head(extra: str) -> bytes:
    return f"HTTP/1.1 200 X\r\nSforce-NumberOfRecords: 50000\r\nSforce-Locator: null\r\n{extra}\r\n\r\n".encode()


def test_a_page_arrives_byte_for_byte() -> None:
    with serve(script_of(answer(200, CSV, headers(locator="MjAwMDAw")))) as server:
        data, page = read(server, "MTAwMDAw")
    assert data == CSV
    assert (page.rows, page.next_locator, page.received) == (50_000, "MjAwMDAw", len(CSV))
    assert server.seen[0].target.endswith(f"/jobs/query/{JOB}/results?maxRecords=50000&locator=MTAwMDAw")


def test_a_chunked_page_arrives_byte_for_byte_in_large_pieces() -> None:
    def script(_seen: Seen) -> Iterator[bytes]:
        yield head("Transfer-Encoding: chunked")
        yield from chunked(CSV)
        yield b"0\r\n\r\n"

    with serve(script) as server, bulk.open_page(client_of(server), JOB, None, 50_000) as page:
        pieces = list(page.chunks())
    assert b"".join(pieces) == CSV
    assert page.next_locator is None
    assert min(len(piece) for piece in pieces[:-1]) >= 256 * 1024


def test_a_gzipped_page_arrives_byte_for_byte() -> None:
    packed = answer(200, gzip.compress(CSV), {**headers(), "Content-Encoding": "gzip"})
    with serve(script_of(packed)) as server:
        assert read(server)[0] == CSV


def test_a_page_shorter_than_its_content_length_is_refused() -> None:
    def script(_seen: Seen) -> Iterator[bytes]:
        yield answer(200, CSV, headers())[: -len(CSV) // 2]
        raise Cut

    with serve(script) as server, pytest.raises(TransientError):
        read(server)


def test_a_page_that_lacks_its_last_chunk_is_refused() -> None:
    def script(_seen: Seen) -> Iterator[bytes]:
        yield head("Transfer-Encoding: chunked\r\nConnection: close")
        yield from chunked(CSV)
        raise Cut

    with serve(script) as server, pytest.raises(TransientError):
        read(server)


def test_a_gzipped_page_that_ends_early_is_refused() -> None:
    packed = answer(200, gzip.compress(CSV)[:-100], {**headers(), "Content-Encoding": "gzip"})
    with serve(script_of(packed)) as server, pytest.raises(TransientError):
        read(server)


def test_a_page_that_stops_on_its_way_ends_at_the_deadline() -> None:
    def script(_seen: Seen) -> Iterator[bytes]:
        yield answer(200, CSV, headers())[: len(CSV) // 2]
        raise Hang

    with serve(script) as server, pytest.raises(TransientError, match="in time"):
        read(server, seconds=0.5)


def test_a_page_whose_org_falls_silent_ends_long_before_the_deadline() -> None:
    def script(_seen: Seen) -> Iterator[bytes]:
        yield answer(200, CSV, headers())[: len(CSV) // 2]
        raise Hang

    with serve(script) as server, pytest.raises(TransientError, match="broke"):
        read(server, seconds=3600, silence=0.3)


def test_an_empty_result_has_no_rows_and_no_next_page() -> None:
    with serve(script_of(answer(200, b"", headers(rows=0)))) as server:
        data, page = read(server)
    assert (data, page.rows, page.next_locator) == (b"", 0, None)


def test_headers_may_be_missing() -> None:
    with serve(script_of(answer(200, CSV))) as server:
        data, page = read(server)
    assert (data, page.rows, page.next_locator) == (CSV, None, None)


def test_a_page_left_half_read_does_not_spoil_the_next_call() -> None:
    with serve(script_of(answer(200, CSV, headers()))) as server:
        client = client_of(server)
        with bulk.open_page(client, JOB, None, 50_000) as page:
            next(page.chunks())
        with bulk.open_page(client, JOB, None, 50_000) as page:
            assert b"".join(page.chunks()) == CSV


def test_an_expired_session_is_renewed_before_the_page_opens() -> None:
    expired = answer(401, [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}])
    with serve(script_of(expired, answer(200, CSV, headers()))) as server:
        assert read(server)[0] == CSV


def test_results_of_a_job_that_is_gone_are_not_found() -> None:
    gone = answer(404, [{"errorCode": "NOT_FOUND", "message": "The requested resource does not exist"}])
    with serve(script_of(gone)) as server, pytest.raises(NotFoundError):
        read(server)


def test_a_job_may_lack_what_a_client_need_not_have() -> None:
    date = {"Date": "Mon, 23 Nov 2026 10:00:00 GMT"}
    with serve(script_of(answer(200, {"id": JOB, "state": "JobComplete"}, date))) as server:
        job = bulk.create_query(client_of(server), "SELECT Id FROM Account")
    assert job.complete
    assert job.created_at.isoformat() == "2026-11-23T10:00:00+00:00"
    assert (job.records_processed, job.error, job.retries) == (None, None, 0)


def test_a_failed_job_tells_why() -> None:
    body = {
        "id": JOB,
        "state": "Failed",
        "createdDate": "2026-11-22T10:00:00.000+0000",
        "errorMessage": "retries",
        "retries": 15,
    }
    with serve(script_of(answer(200, body))) as server:
        job = bulk.get_query(client_of(server), JOB)
    assert job.failed
    assert (job.error, job.retries) == ("retries", 15)


def test_a_field_that_is_gone_is_a_changed_schema() -> None:
    gone = answer(400, [{"errorCode": "INVALID_FIELD", "message": "No such column 'Foo' on entity 'Account'."}])
    with serve(script_of(gone)) as server, pytest.raises(SchemaChangedError):
        bulk.create_query(client_of(server), "SELECT Foo FROM Account")


def test_an_object_that_bulk_does_not_know_is_rejected_with_its_code() -> None:
    refused = answer(400, [{"errorCode": "INVALIDENTITY", "message": "Entity 'X' is not supported by the Bulk API."}])
    with serve(script_of(refused)) as server, pytest.raises(RejectedError) as caught:
        bulk.create_query(client_of(server), "SELECT Id FROM X")
    assert caught.value.code == "INVALIDENTITY"


@pytest.mark.parametrize("action", [bulk.abort, bulk.delete])
def test_ending_a_job_that_is_gone_is_forgiven(action: object) -> None:
    assert callable(action)
    with serve(script_of(answer(404, [{"errorCode": "NOT_FOUND", "message": "gone"}]))) as server:
        action(client_of(server), JOB)


def test_a_job_id_cannot_lead_elsewhere() -> None:
    with serve(script_of(answer(200, {}))) as server:
        with pytest.raises(ValueError):
            bulk.get_query(client_of(server), "../../query")
        assert server.seen == []
