"""Describe answers, whole and poor."""

import pytest

from worker.salesforce.describe import parse

ANSWER = {
    "name": "Thing__c",
    "keyPrefix": "a00",
    "custom": True,
    "createable": True,
    "replicateable": True,
    "unheardOf": [1],
    "fields": [
        {"name": "Id", "type": "id", "length": 18, "nillable": False, "createable": False, "defaultedOnCreate": True},
        {"name": "Amount__c", "type": "currency", "precision": 18, "scale": 2, "nillable": False, "createable": True},
        {
            "name": "Owner__c",
            "type": "reference",
            "referenceTo": ["User", "Group"],
            "relationshipName": "Owner__r",
            "createable": True,
        },
        {
            "name": "Stage__c",
            "type": "picklist",
            "restrictedPicklist": True,
            "picklistValues": [{"value": "A", "active": True, "defaultValue": True}, {"value": "B", "active": False}],
        },
    ],
    "childRelationships": [
        {"childSObject": "Part__c", "field": "Thing__c", "relationshipName": None, "cascadeDelete": True}
    ],
}


def test_a_describe_is_read() -> None:
    thing = parse(ANSWER)
    assert (thing.name, thing.key_prefix, thing.custom, thing.mergeable) == ("Thing__c", "a00", True, False)
    amount = thing.field("AMOUNT__C")
    assert amount is not None
    assert (amount.precision, amount.scale, amount.required_on_create) == (18, 2, True)
    owner = thing.field("owner__c")
    assert owner is not None
    assert (owner.reference_to, owner.relationship_name) == (("User", "Group"), "Owner__r")
    stage = thing.field("Stage__c")
    assert stage is not None
    assert [(value.value, value.active, value.default) for value in stage.picklist] == [
        ("A", True, True),
        ("B", False, False),
    ]
    assert thing.children[0].child_object == "Part__c"
    assert thing.children[0].cascade_delete


def test_what_is_missing_has_a_safe_meaning() -> None:
    thing = parse({"name": "X", "fields": [{"name": "F", "type": "sometype", "length": None, "nillable": None}]})
    field = thing.field("f")
    assert field is not None
    assert (field.length, field.nillable, field.createable, field.updateable) == (0, True, False, False)
    assert thing.field("g") is None
    assert thing.queryable
    assert not thing.replicateable


def test_a_describe_without_a_name_is_none() -> None:
    with pytest.raises(KeyError):
        parse({"fields": []})
