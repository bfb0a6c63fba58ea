"""Creating one record through the UI API under an idempotency key: asked again with the same key, it answers with the same record.

Source: User Interface API Developer Guide, "Create a Record", "Prevent Record Duplication with Idempotent Record Writes".
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from worker.errors import NotFoundError, RejectedError, UnknownOutcomeError
from worker.salesforce.client import OrgClient
from worker.salesforce.ids import to_18
from worker.salesforce.soql import name
from worker.salesforce.transport import Deadline

PATH = "ui-api/records"
KEY_HEADER = "Idempotency-Key"
KEY_VERSION = 4  # of the UUID
NO_KEY = "no-uuid"  # what no org takes for a key
NO_FIELD = "No_Such_Field_Is_Here__c"  # makes the probe's create impossible, whether the org looks at the key or not
MEANS_KEY = ("idempot", "uuid")  # in the org's words when a complaint is about the key


def create(client: OrgClient, object_name: str, fields: Mapping[str, Any], key: UUID, *, deadline: Deadline) -> str:
    """Create one record, or learn which one this key made before; its id. UnknownOutcomeError when no whole answer came."""
    body = {"apiName": name(object_name), "fields": dict(fields)}
    headers = {KEY_HEADER: str(key)}
    answer = client.call("POST", PATH, json=body, headers=headers, idempotent=False, deadline=deadline).body
    if not isinstance(answer, Mapping) or not answer.get("id"):
        raise UnknownOutcomeError("the org's answer to a create has not the expected form", code="ODD_ANSWER")
    return to_18(str(answer["id"]))


def takes_keys(client: OrgClient, object_name: str, key: UUID) -> bool:
    """Whether the org heeds idempotency keys for this object: two calls that cannot create anything.

    Where a bad key is complained of, keys are read; where a good one is not, they are taken. What the org complains of instead
    is the field that is not there. An org that checks fields before keys is taken for one that does not heed them.
    """
    return _complains_of_key(client, object_name, NO_KEY) and not _complains_of_key(client, object_name, str(key))


def _complains_of_key(client: OrgClient, object_name: str, key: str) -> bool:
    """Whether a create under this key fails for the key's sake; True, too, where the UI API does not know the object."""
    body = {"apiName": name(object_name), "fields": {NO_FIELD: "x"}}
    try:
        client.call("POST", PATH, json=body, headers={KEY_HEADER: key}, idempotent=True)
    except RejectedError as error:
        unknown = isinstance(error, NotFoundError) or error.code == "INVALID_TYPE"
        words = " ".join(f"{one.code} {one.message}" for one in error.complaints).lower()
        return (unknown and key != NO_KEY) or any(word in words for word in MEANS_KEY)
    return False
