"""What the org says of itself: versions, describes, limits."""

import requests

from tests.local_org.calling import Api
from tests.org import Org


def test_versions_need_no_login_and_ascend(org: Org) -> None:
    versions = requests.get(f"{org.url}/services/data/", timeout=30).json()
    assert versions[-1] == {"label": "Winter '27", "url": "/services/data/v68.0", "version": "68.0"}
    assert [float(v["version"]) for v in versions] == [float(n) for n in range(31, 69)]


def test_paths_in_answers_carry_the_version_that_was_asked(api: Api) -> None:
    entry = Api(api.org, "51.0")("GET", "sobjects/User").json()["objectDescribe"]
    assert entry["urls"]["describe"] == "/services/data/v51.0/sobjects/User/describe"


def test_a_field_entry_has_every_key(api: Api) -> None:
    described = api("GET", "sobjects/Opportunity/describe").json()
    field = next(item for item in described["fields"] if item["name"] == "AccountId")
    assert field == {
        "aggregatable": True, "aiPredictionField": False, "autoNumber": False, "byteLength": 18, "calculated": False,
        "calculatedFormula": None, "cascadeDelete": False, "caseSensitive": False, "compoundFieldName": None,
        "controllerName": None, "createable": True, "custom": False, "defaultValue": None,
        "defaultValueFormula": None, "defaultedOnCreate": False, "dependentPicklist": False,
        "deprecatedAndHidden": False, "digits": 0, "displayLocationInDecimal": False, "encrypted": False,
        "externalId": False, "extraTypeInfo": None, "filterable": True, "filteredLookupInfo": None,
        "formulaTreatNullNumberAsZero": False, "groupable": True, "highScaleNumber": False, "htmlFormatted": False,
        "idLookup": False, "inlineHelpText": None, "label": "Account ID", "length": 18, "mask": None,
        "maskType": None, "name": "AccountId", "nameField": False, "namePointing": False, "nillable": True,
        "permissionable": True, "picklistValues": [], "polymorphicForeignKey": False, "precision": 0,
        "queryByDistance": False, "referenceTargetField": None, "referenceTo": ["Account"],
        "relationshipName": "Account", "relationshipOrder": None, "restrictedDelete": False,
        "restrictedPicklist": False, "scale": 0, "searchPrefilterable": True, "soapType": "tns:ID", "sortable": True,
        "type": "reference", "unique": False, "updateable": True, "writeRequiresMasterRead": False,
    }  # fmt: skip


def test_describe_is_not_sent_again_until_the_schema_changes(api: Api) -> None:
    first = api("GET", "sobjects/Lead/describe")
    same = {"If-Modified-Since": first.headers["Last-Modified"]}
    assert api("GET", "sobjects/Lead/describe", headers=same).status_code == 304
    assert api("GET", "sobjects", headers=same).status_code == 304
    api.org.control.advance_clock(5)
    api.org.control.add_field("Lead", "Score__c", type="double", label="Score", precision=18, scale=2, custom=True)
    changed = api("GET", "sobjects/Lead/describe", headers=same)
    assert changed.status_code == 200
    assert "Score__c" in {field["name"] for field in changed.json()["fields"]}
    assert api.read("Lead", api.create("Lead", LastName="x", Company="y", Score__c="1.50"))["Score__c"] == 1.5


def test_an_unknown_session_is_refused_as_the_vendor_does(org: Org) -> None:
    answer = requests.get(f"{org.url}/services/data/v68.0/limits", headers={"Authorization": "Bearer x"}, timeout=30)
    assert answer.status_code == 401
    assert answer.json() == [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}]
    assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"


def test_head_answers_without_a_body(api: Api) -> None:
    answer = api("HEAD", "limits")
    assert (answer.status_code, answer.content) == (200, b"")
