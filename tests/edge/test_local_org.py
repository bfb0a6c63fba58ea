"""The edge against a whole org, over the wire."""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from tests.org import Org, start_org
from tests.waiting import until
from worker.errors import DisconnectedError, NotFoundError, SchemaChangedError, SyncError, TransientError
from worker.salesforce import bulk, composite, oauth, rest, soql
from worker.salesforce.client import OrgClient
from worker.salesforce.describe import parse
from worker.salesforce.exchange import AccessToken
from worker.salesforce.limits import COLLECTION_RECORDS
from worker.salesforce.oauth import App
from worker.salesforce.transport import HttpOptions


class AppTokens:
    """Tokens by client credentials, without a store."""

    def __init__(self, org: Org, options: HttpOptions) -> None:
        self.org = org
        self.options = options
        self.version = 0

    def current(self) -> AccessToken:
        app = App(self.org.client_id, self.org.client_secret)
        grant = oauth.client_credentials(self.options, self.org.url, app)
        self.version += 1
        return AccessToken(grant.access_token, grant.instance_url, self.version)

    def renew(self, stale: AccessToken) -> AccessToken:
        return self.current()

    def refused(self, token: AccessToken, reason: str) -> SyncError:
        return DisconnectedError(reason)


def client_of(org: Org) -> OrgClient:
    options = HttpOptions("62.0", (org.url,), org.ca_file, 30.0, 30.0)
    return OrgClient(AppTokens(org, options), options)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Org]:
    """One org for the tests that only read or write their own records."""
    with start_org(tmp_path_factory.mktemp("edge") / "org", seed="Account=20,Contact=2500,Opportunity=30") as org:
        yield org


@pytest.fixture
def client(shared: Org) -> OrgClient:
    return client_of(shared)


def finished(client: OrgClient, soql_text: str) -> bulk.QueryJob:
    job = bulk.create_query(client, soql_text)
    until(lambda: bulk.get_query(client, job.id).complete)
    return bulk.get_query(client, job.id)


def test_a_query_is_paged_to_its_end(client: OrgClient) -> None:
    page = rest.query(client, soql.select("Contact", ["Id"], order_by=["Id"]))
    assert page.total_size == 2500
    seen = [record["Id"] for record in page.records]
    while page.next_url:
        page = rest.more(client, page.next_url)
        seen += [record["Id"] for record in page.records]
    assert len(set(seen)) == 2500
    assert page.done
    assert client.usage is not None


def test_a_query_too_long_for_a_url_is_posted(client: OrgClient) -> None:
    ids = [record["Id"] for record in rest.query(client, "SELECT Id FROM Contact LIMIT 1000").records]
    calls = client.calls
    page = rest.query(client, soql.select("Contact", ["Id", "Name"], where=soql.in_list("Id", ids)))
    assert page.total_size == 1000
    assert client.calls == calls + 1


def test_a_field_that_is_not_there_is_a_changed_schema_on_both_ways(client: OrgClient) -> None:
    with pytest.raises(SchemaChangedError):
        rest.query(client, "SELECT Nope__c FROM Contact")
    with pytest.raises(SchemaChangedError):
        rest.query(client, soql.select("Contact", ["Nope__c"], where=soql.in_list("Name", ["x" * 100] * 200)))


@pytest.mark.parametrize("text", ["it's", 'a "b" \\ c', "line\nbreak\ttab", "50%_", "ünï 漢字 🎉", "' OR Name != '"])
def test_a_quoted_string_survives_the_org(client: OrgClient, text: str) -> None:
    made = composite.create(client, "Account", [{"Name": text, "Site": "quoted"}])
    assert made[0].success
    found = rest.query(client, soql.select("Account", ["Id", "Name"], where=f"Name = {soql.quote(text)}"))
    assert [(record["Id"], record["Name"]) for record in found.records] == [(made[0].id, text)]


def test_describe_is_cheap_the_second_time(client: OrgClient) -> None:
    first = rest.describe(client, "Contact")
    assert first is not None
    contact = parse(first.json)
    assert contact.key_prefix == "003"
    name = contact.field("lastname")
    assert name is not None
    assert name.required_on_create
    assert first.last_modified is not None
    assert rest.describe(client, "Contact", if_modified_since=first.last_modified) is None
    with pytest.raises(NotFoundError):
        rest.describe(client, "Nope__c")
    assert "Contact" in {entry["name"] for entry in rest.describe_global(client)}


def test_changes_are_told_with_how_far_the_org_vouches(client: OrgClient) -> None:
    made = composite.create(client, "Contact", [{"LastName": "Changing"}, {"LastName": "Leaving"}])
    assert composite.delete(client, [str(made[1].id)])[0].success
    now = rest.org_time(client)
    start, end = now - timedelta(hours=1), now + timedelta(minutes=1)
    updated = rest.get_updated(client, "Contact", start, end)
    assert updated.latest_date_covered <= end
    deleted = rest.get_deleted(client, "Contact", start, end)
    assert deleted.latest_date_covered <= end
    if end.replace(second=0, microsecond=0) > now:  # whole minutes only
        assert made[0].id in updated.ids
        assert made[1].id in [one for one, _ in deleted.records]


def test_a_collection_answers_each_record_in_its_place(client: OrgClient) -> None:
    records = [{"LastName": f"N{number}"} if number != 7 else {"FirstName": "no last name"} for number in range(200)]
    results = composite.create(client, "Contact", records)
    assert [number for number, result in enumerate(results) if not result.success] == [7]
    assert results[7].errors[0].code == "REQUIRED_FIELD_MISSING"
    ids = [str(result.id) for result in results if result.success]
    missing = "003000000000999AAA"
    rows = composite.retrieve(client, "Contact", [ids[0], missing, ids[1]], ["Id", "LastName"])
    assert [row and row["LastName"] for row in rows] == ["N0", None, "N1"]
    assert all(result.success for result in composite.update(client, "Contact", [{"Id": ids[0], "LastName": "New"}]))
    assert all(result.success for result in composite.delete(client, ids))


def test_an_upsert_says_what_it_created(client: OrgClient) -> None:
    record = {"External_Key__c": "edge-1", "LastName": "Upserted"}
    assert [row.created for row in composite.upsert(client, "Contact", "External_Key__c", [record])] == [True]
    assert [row.created for row in composite.upsert(client, "Contact", "External_Key__c", [record])] == [False]


def test_a_collection_has_a_size(client: OrgClient) -> None:
    for records in ([], [{"LastName": "x"}] * (COLLECTION_RECORDS + 1)):
        with pytest.raises(ValueError):
            composite.create(client, "Contact", records)


def test_amounts_are_exact(client: OrgClient) -> None:
    amount = Decimal("1234567890123456.78")
    made = composite.create(
        client, "Opportunity", [{"Name": "x", "StageName": "Prospecting", "CloseDate": "2027-01-01", "Amount": amount}]
    )
    assert made[0].errors == ()
    assert composite.retrieve(client, "Opportunity", [str(made[0].id)], ["Amount"])[0]["Amount"] == amount  # type: ignore[index]


def test_a_bulk_result_is_read_page_by_page_and_again(client: OrgClient) -> None:
    job = finished(client, "SELECT Id, LastName FROM Contact")
    locator: str | None = None
    last: str | None = None
    pages: list[bytes] = []
    rows = 0
    while True:
        with bulk.open_page(client, job.id, locator, 1000) as page:
            pages.append(b"".join(page.chunks()))
            assert page.rows == pages[-1].count(b"\n") - 1
            rows += page.rows or 0
            last, locator = locator, page.next_locator
        if locator is None:
            break
    assert rows == job.records_processed
    with bulk.open_page(client, job.id, last, 1000) as page:
        assert b"".join(page.chunks()) == pages[-1]
    assert abs((job.created_at - rest.org_time(client)).total_seconds()) < 120
    bulk.delete(client, job.id)
    with pytest.raises(NotFoundError):
        bulk.get_query(client, job.id)


def test_sessions_that_end_are_renewed_in_every_kind_of_call(org: Org) -> None:
    client = client_of(org)
    job = finished(client, "SELECT Id FROM Contact")
    for call in (
        lambda: rest.query(client, "SELECT Id FROM Contact"),
        lambda: composite.create(client, "Contact", [{"LastName": "x"}]),
        lambda: bulk.get_query(client, job.id),
        lambda: b"".join(_page(client, job.id)),
    ):
        org.control.expire_tokens()
        assert call()


def _page(client: OrgClient, job_id: str) -> list[bytes]:
    with bulk.open_page(client, job_id, None, 1000) as page:
        return list(page.chunks())


def test_a_fault_of_the_org_passes(org: Org) -> None:
    client = client_of(org)
    html = {"status": 503, "body": "<html>busy</html>", "headers": {"Content-Type": "text/html"}}
    org.control.add_fault(match={"path_regex": "/query", "times": 2}, action=html)
    assert rest.query(client, "SELECT Id FROM Contact").total_size == 50


def test_an_org_over_https_is_trusted_by_its_ca_file_alone(tmp_path: Path) -> None:
    with start_org(tmp_path / "org", seed="Contact=3", http=False) as org:
        assert rest.query(client_of(org), "SELECT Id FROM Contact").total_size == 3
        untrusting = HttpOptions("62.0", (org.url,))
        with pytest.raises(TransientError, match="SALESFORCE_CA_FILE"):
            OrgClient(AppTokens(org, untrusting), untrusting)


def test_an_identity_is_read(shared: Org) -> None:
    options = HttpOptions("62.0", (shared.url,))
    grant = oauth.client_credentials(options, shared.url, App(shared.client_id, shared.client_secret))
    who = oauth.identity(options, grant)
    assert (who.organization_id, who.user_id, who.username) == (shared.organization_id, shared.user_id, shared.username)
    assert oauth.introspect(options, shared.url, App(shared.client_id, shared.client_secret), grant.access_token)
    assert oauth.revoke(options, shared.url, grant.access_token)
    assert not oauth.revoke(options, shared.url, grant.access_token)
