"""A worker of one run in a process of its own, to be killed: python -m tests.edge.mirror.child '{"database": ...}'."""

import json
import sys

from tests.edge.mirror.world import KEY, FixedToken
from worker.db import Database
from worker.mirror import steps
from worker.mirror.deps import MirrorDeps
from worker.salesforce.client import AccessToken, OrgClient, http_options
from worker.settings import Settings


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
