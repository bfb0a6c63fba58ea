"""What query jobs and ingest jobs of Bulk API 2.0 have in common: how they are ended and removed.

Source: Bulk API 2.0 and Bulk API Developer Guide, "Abort a Job", "Delete a Job".
"""

from worker.errors import RejectedError
from worker.salesforce.client import OrgClient


def abort(client: OrgClient, path: str) -> None:
    """Ask for the end of the job at `path`. Nothing happens when it has ended or is gone."""
    try:
        client.call("PATCH", path, json={"state": "Aborted"}, idempotent=True)
    except RejectedError:
        pass


def delete(client: OrgClient, path: str) -> None:
    """Delete the job at `path`, which is over, with its results. Nothing happens when it is gone or still at work."""
    try:
        client.call("DELETE", path, idempotent=True)
    except RejectedError:
        pass
