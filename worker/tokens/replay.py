"""At the start of a worker: pairs that a killed process left on this machine go into Postgres."""

from worker.db import Database
from worker.settings import Settings
from worker.tokens.grants import lock, open_refresh_token, put_grant
from worker.tokens.renew import end_attempt, token_spool, useful_pair
from worker.tokens.spool import Spool
from worker.tokens.vault import Vault


def replay_spool(database: Database, vault: Vault, settings: Settings) -> int:
    """At start: store pairs that a killed process left on this machine. How many were of use."""
    spool = token_spool(settings, vault)
    return sum(_replay(database, vault, spool, connection_id) for connection_id in spool.waiting())


def _replay(database: Database, vault: Vault, spool: Spool, connection_id: int) -> bool:
    """Files of other attempts are dropped too, but only under the lock: no renewal that is under way has one among them."""
    with database.transaction() as session:
        row = lock(session, connection_id)
        pairs = spool.find(connection_id)
        active = row is not None and row.state == "active"
        useful = useful_pair(pairs, row, open_refresh_token(vault, row)) if row is not None and active else None
        for pair in pairs:
            if pair is not useful:
                spool.drop(pair)
        if row is not None and useful is not None:
            put_grant(vault, row, useful.grant)
            end_attempt(session, useful.attempt_id, "renewed", "restored from disk")
    if useful is not None:
        spool.drop(useful)
    return useful is not None
