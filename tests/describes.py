"""Small describe answers: a connection that keeps them can accept actions without asking an org."""

from typing import Any

FIELD: dict[str, Any] = {"createable": True, "updateable": True, "nillable": True}


def describe(name: str, prefix: str, *fields: dict[str, Any]) -> dict[str, Any]:
    """A small describe answer."""
    flags = dict.fromkeys(("createable", "updateable", "deletable", "queryable"), True)
    return {"name": name, "keyPrefix": prefix, **flags, "fields": [FIELD | field for field in fields]}


CONTACT = describe(
    "Contact",
    "003",
    {"name": "Id", "type": "id", "createable": False, "updateable": False, "nillable": False},
    {"name": "LastName", "type": "string", "length": 80, "nillable": False},
    {"name": "Email", "type": "email", "length": 80},
    {"name": "AccountId", "type": "reference", "length": 18, "relationshipName": "Account", "referenceTo": ["Account"]},
    {"name": "Name", "type": "string", "length": 121, "createable": False, "updateable": False},
)
ACCOUNT = describe("Account", "001", {"name": "Name", "type": "string", "length": 255, "nillable": False})
KEY = {"name": "External_Key__c", "type": "string", "length": 64, "externalId": True, "unique": True}
OPPORTUNITY = describe(
    "Opportunity",
    "006",
    {"name": "Name", "type": "string", "length": 120, "nillable": False},
    {"name": "Amount", "type": "currency", "precision": 18, "scale": 2},
    KEY,
)
