"""Every error code of our own, as answers carry it: status and meaning. The org's own codes come with status 422 and are not here.

docs/http.md lists the same; a test compares the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Code:
    """One code. `advice`: what the caller does about it."""

    status: int
    meaning: str
    advice: str


CODES: Mapping[str, Code] = MappingProxyType(
    {
        "VALIDATION_ERROR": Code(
            400, "A parameter or the body is wrong; `details` has every fault", "change the request"
        ),
        "INVALID_FIELD": Code(
            400, "A field is named that the mirror does not have, or that cannot be used so", "change the request"
        ),
        "INVALID_CURSOR": Code(400, "The cursor is not of this list", "begin with the first page"),
        "INVALID_STATE": Code(
            400, "The OAuth state is unknown, used or older than ten minutes", "begin the sign-in again"
        ),
        "AUTH_DENIED": Code(400, "The org or its user did not grant access", "begin the sign-in again"),
        "UNKNOWN_CAPABILITY": Code(
            400, "There is no capability of this name", "see GET /api/services/salesforce_service"
        ),
        "UNKNOWN_COMMAND": Code(400, "There is no chat command like this", "see GET /api/services/salesforce_service"),
        "UNAUTHORIZED": Code(401, "The API key is missing or not valid", "send Authorization: Bearer <key>"),
        "AUTH_ERROR": Code(401, "The user has no working connection", "connect the Salesforce account"),
        "FORBIDDEN": Code(403, "The key lacks the scope, or may not act for this user", "use another key"),
        "NOT_FOUND": Code(404, "There is no such path, record, action, run or object", "look at what you name"),
        "METHOD_NOT_ALLOWED": Code(405, "The path knows other methods; see Allow", "use one of those"),
        "REQUEST_TIMEOUT": Code(408, "The body did not come in time", "send it again"),
        "WRONG_STATE": Code(409, "The action or trigger is in a state in which this cannot be done", "read its state"),
        "NAME_TAKEN": Code(409, "The user has another trigger of this name", "choose another name"),
        "CANCELLED": Code(409, "The action was cancelled", "nothing, or ask for it anew"),
        "CONFLICT": Code(
            409, "The record was changed since the time that the request named", "read it again and decide"
        ),
        "IDEMPOTENCY_KEY_REUSED": Code(
            409, "The key was used for other content; `details.action_id` is that action", "use a new key"
        ),
        "PAYLOAD_TOO_LARGE": Code(413, "The body is larger than allowed", "send less at once"),
        "UNSUPPORTED_MEDIA_TYPE": Code(
            415, "The body is of a type or encoding that this path does not read", "send JSON in UTF-8"
        ),
        "RATE_LIMITED": Code(429, "The key asks more often than it may", "wait as Retry-After says"),
        "CONTACTS_HANDLING_FAILED": Code(
            500, "Our own fault, in a list or create of contacts", "tell the operator the request id"
        ),
        "CONTACT_HANDLING_FAILED": Code(500, "Our own fault, with one contact", "tell the operator the request id"),
        "ACCOUNTS_HANDLING_FAILED": Code(
            500, "Our own fault, in a list or create of accounts", "tell the operator the request id"
        ),
        "ACCOUNT_HANDLING_FAILED": Code(500, "Our own fault, with one account", "tell the operator the request id"),
        "OPPORTUNITIES_HANDLING_FAILED": Code(
            500, "Our own fault, in a list or create of opportunities", "tell the operator the request id"
        ),
        "OPPORTUNITY_HANDLING_FAILED": Code(
            500, "Our own fault, with one opportunity", "tell the operator the request id"
        ),
        "LEADS_HANDLING_FAILED": Code(
            500, "Our own fault, in a list or create of leads", "tell the operator the request id"
        ),
        "LEAD_HANDLING_FAILED": Code(500, "Our own fault, with one lead", "tell the operator the request id"),
        "INTERNAL_ERROR": Code(500, "Our own fault, anywhere else", "tell the operator the request id"),
        "APP_REFUSED": Code(502, "The org refuses the connected app itself", "the operator looks at its settings"),
        "MIRROR_NOT_READY": Code(
            503, "The object has no whole copy yet; making one has begun", "try again as Retry-After says"
        ),
        "MIRROR_FAILED": Code(
            503, "The last attempt to copy the object failed; the message says why", "mend the cause, try again"
        ),
        "ALLOWANCE_SPENT": Code(503, "The org's API allowance is spent", "try again later"),
        "UNAVAILABLE": Code(503, "Postgres or the org cannot be reached", "try again as Retry-After says"),
        "TIMEOUT": Code(503, "Postgres could not answer in time", "ask for less: a filter, fewer fields"),
        "BUSY": Code(503, "Too much is asked for at once", "try again as Retry-After says"),
    }
)
