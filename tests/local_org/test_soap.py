"""Calls of the SOAP API over the wire."""

import re

import requests

from tests.local_org.calling import Api
from tests.org import Org


def soap(org: Org, body: str, session: str = "", *, version: str = "60.0", headers: str = "") -> requests.Response:
    text = (
        '<env:Envelope xmlns:env="http://schemas.xmlsoap.org/soap/envelope/" xmlns="urn:partner.soap.sforce.com" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><env:Header>'
        f"<SessionHeader><sessionId>{session}</sessionId></SessionHeader>{headers}</env:Header>"
        f"<env:Body>{body}</env:Body></env:Envelope>"
    )
    sent = {"Content-Type": "text/xml; charset=UTF-8", "SOAPAction": '""'}
    return requests.post(f"{org.url}/services/Soap/u/{version}", text.encode(), headers=sent, timeout=30)


def values(answer: requests.Response, name: str) -> list[str]:
    return re.findall(rf"<(?:sf:)?{name}>([^<]*)</(?:sf:)?{name}>", answer.text)


def logged_in(org: Org) -> str:
    body = f"<login><username>{org.username}</username><password>{org.password}</password></login>"
    answer = soap(org, body)
    assert values(answer, "userName") == [org.username]
    return values(answer, "sessionId")[0]


def test_records(org: Org, api: Api) -> None:
    session = logged_in(org)
    two = "<sObjects><type>Account</type><Name>S &amp; P</Name></sObjects><sObjects><type>Account</type></sObjects>"
    made = soap(org, f"<create>{two}</create>", session)
    assert values(made, "success") == ["true", "false"]
    assert values(made, "statusCode") == ["REQUIRED_FIELD_MISSING"]
    account = values(made, "id")[0]
    changed = f"<sObjects><type>Account</type><Id>{account}</Id><Site>here</Site></sObjects>"
    assert values(soap(org, f"<update>{changed}</update>", session), "success") == ["true"]
    found = soap(org, f"<query><queryString>SELECT Name, Owner.Name, Fax FROM Account WHERE Id = '{account}'</queryString></query>", session)  # fmt: skip
    assert values(found, "Name")[0] == "S &amp; P"
    assert '<sf:Fax xsi:nil="true"/>' in found.text
    assert values(found, "size") == ["1"]
    assert "Name" in soap(org, "<describeSObject><sObjectType>Account</sObjectType></describeSObject>", session).text
    all_or_none = "<AllOrNoneHeader><allOrNone>true</allOrNone></AllOrNoneHeader>"
    undone = soap(org, f"<create>{two}</create>", session, headers=all_or_none)
    assert "ALL_OR_NONE_OPERATION_ROLLED_BACK" in values(undone, "statusCode")


def test_pages(org: Org, api: Api) -> None:
    session = logged_in(org)
    org.control.create_rows("Lead", count=250)
    options = "<QueryOptions><batchSize>200</batchSize></QueryOptions>"
    page = soap(org, "<query><queryString>SELECT Id FROM Lead</queryString></query>", session, headers=options)
    locator = values(page, "queryLocator")[0]
    rest = soap(org, f"<queryMore><queryLocator>{locator}</queryLocator></queryMore>", session)
    assert len(set(values(page, "Id") + values(rest, "Id"))) == int(values(page, "size")[0])


def test_undelete_empty_and_merge(org: Org, api: Api) -> None:
    session = logged_in(org)
    winner, loser, gone = (api.create("Account", Name=name) for name in ("winner", "loser", "gone"))
    contact = api.create("Contact", LastName="moves", AccountId=loser)
    api("DELETE", f"sobjects/Account/{gone}")
    assert values(soap(org, f"<undelete><ids>{gone}</ids></undelete>", session), "success") == ["true"]
    assert api("GET", f"sobjects/Account/{gone}").status_code == 200
    assert values(soap(org, f"<undelete><ids>{gone}</ids></undelete>", session), "success") == ["false"]
    api("DELETE", f"sobjects/Account/{gone}")
    emptied = soap(org, f"<emptyRecycleBin><ids>{gone}</ids></emptyRecycleBin>", session)
    assert values(emptied, "success") == ["true"]
    assert api.error("GET", f"sobjects/Account/{gone}")[1] == "NOT_FOUND"
    master = f"<masterRecord><type>Account</type><Id>{winner}</Id><Site>kept</Site></masterRecord>"
    request = f"<request>{master}<recordToMergeIds>{loser}</recordToMergeIds></request>"
    assert values(soap(org, f"<merge>{request}</merge>", session), "success") == ["true"]
    assert api.read("Contact", contact)["AccountId"] == winner
    assert api.read("Account", winner)["Site"] == "kept"
    found = api("GET", "queryAll", params={"q": f"SELECT MasterRecordId FROM Account WHERE Id = '{loser}'"}).json()
    assert found["records"][0]["MasterRecordId"] == winner


def test_faults(org: Org) -> None:
    session = logged_in(org)
    assert "INVALID_SESSION_ID" in soap(org, "<logout/>", "wrong").text
    assert "MALFORMED_QUERY" in soap(org, "<query><queryString>SELECT</queryString></query>", session).text
    assert "INVALID_OPERATION" in soap(org, "<convertLead/>", session).text
    assert "UNSUPPORTED_API_VERSION" in soap(org, "<login/>", version="65.0").text
    assert "UNSUPPORTED_API_VERSION" in soap(org, "<logout/>", session, version="30.0").text
    assert soap(org, "<!DOCTYPE x>", session).status_code == 500
    assert soap(org, "<logout/>", session).status_code == 200
    assert "INVALID_SESSION_ID" in soap(org, "<getUserInfo/>", session).text
