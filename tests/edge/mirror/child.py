"""A worker of one run in a process of its own, to be killed: python -m tests.edge.mirror.child '{"database": ...}'."""

import json
import sys
from dataclasses import dataclass

from tests.edge.mirror.world import KEY
from worker.db import Database
from worker.errors import DisconnectedError, SyncError
from worker.mirror import steps
from worker.mirror.deps import MirrorDeps
from worker.salesforce.client import OrgClient, http_options
from worker.salesforce.exchange import AccessToken
from worker.settings import Settings


@dataclass
class FixedToken:
    """A token that the org gave before this process began."""

    token: AccessToken

    def current(self) -> AccessToken:
        return self.token

    def renew(self, stale: AccessToken) -> AccessToken:
        raise DisconnectedError("this process cannot renew a token")

    def refused(self, token: AccessToken, reason: str) -> SyncError:
        return DisconnectedError(reason)


def main(argument: str) -> None:
    """Take steps for ever."""
    given = json.loads(argument)
    settings = Settings(database_url=given["database"], encryption_key=KEY, **given["settings"])
    token = FixedToken(AccessToken(given["token"], given["url"], 1))
    deps = MirrorDeps(
        Database(given["database"]), settings, lambda _: OrgClient(token, http_options(settings)), lambda *_: None
    )
    while True:
        steps.step(deps, given["run_id"])


if __name__ == "__main__":
    main(sys.argv[1])
