"""simple-salesforce, unchanged: REST, Bulk 1.0, Bulk 2.0. It always speaks HTTPS."""

import csv
import io
from collections.abc import Iterator

import pytest
import requests
from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import SalesforceMalformedRequest


@pytest.fixture(scope="module")
def sf(secure_org) -> Iterator[Salesforce]:
    session = requests.Session()
    session.trust_env = False  # REQUESTS_CA_BUNDLE would win over `verify`
    session.verify = secure_org.ca_file
    data = {
        "grant_type": "client_credentials",
        "client_id": secure_org.client_id,
        "client_secret": secure_org.client_secret,
    }
    token = session.post(f"{secure_org.url}/services/oauth2/token", data=data, timeout=30).json()["access_token"]
    yield Salesforce(instance_url=secure_org.url, session_id=token, session=session, version="60.0")
    session.close()


def test_rest(sf) -> None:
    assert sf.query("SELECT COUNT() FROM Contact")["totalSize"] == 5000
    assert sum(1 for _ in sf.query_all_iter("SELECT Id FROM Contact")) == 5000
    made = sf.Account.create({"Name": "Simple"})
    assert sf.Account.get(made["id"])["Name"] == "Simple"
    assert sf.Account.update(made["id"], {"Phone": "1"}) == 204
    assert sf.Account.upsert("External_Key__c/ss-1", {"Name": "Keyed"}) == 201
    assert sf.Account.get_by_custom_id("External_Key__c", "ss-1")["Name"] == "Keyed"
    assert sf.Account.delete(made["id"]) == 204
    assert sf.describe()["sobjects"]
    assert sf.Account.describe()["name"] == "Account"
    assert sf.limits()["DailyApiRequests"]["Max"]
    assert sf.api_usage["api-usage"].used > 0
    with pytest.raises(SalesforceMalformedRequest) as caught:
        sf.query("SELECT Nope FROM Account")
    assert caught.value.content[0]["errorCode"] == "INVALID_FIELD"


def test_bulk_1(sf) -> None:
    rows = sf.bulk.Contact.query("SELECT Id, Name FROM Contact LIMIT 20")
    assert len(rows) == 20
    made = sf.bulk.Account.insert([{"Name": f"B{n}"} for n in range(30)], batch_size=10)
    assert [row["success"] for row in made] == [True] * 30
    sf.bulk.Account.update([{"Id": made[0]["id"], "Phone": "7"}])
    assert sf.Account.get(made[0]["id"])["Phone"] == "7"
    gone = sf.bulk.Account.delete([{"Id": row["id"]} for row in made])
    assert all(row["success"] for row in gone)


def test_bulk_2(sf) -> None:
    pages = list(sf.bulk2.Contact.query("SELECT Id, Name FROM Contact", max_records=2000))
    assert [len(list(csv.reader(io.StringIO(page)))) - 1 for page in pages] == [2000, 2000, 1000]
    done = sf.bulk2.Account.insert(records=[{"Name": "two 1"}, {"Name": "two 2"}, {"Name": "", "Phone": "3"}])
    assert (done[0]["numberRecordsTotal"], done[0]["numberRecordsFailed"]) == (3, 1)
    job = done[0]["job_id"]
    assert "two 1" in sf.bulk2.Account.get_successful_records(job)
    assert "REQUIRED_FIELD_MISSING" in sf.bulk2.Account.get_failed_records(job)
