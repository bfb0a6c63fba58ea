"""What is wrong with a callback that somebody asks for, as far as that can be known before it is called."""

from worker.callbacks import store
from worker.callbacks.addresses import target
from worker.callbacks.deliver import CallbackDeps


def wrong_url(deps: CallbackDeps, connection_id: int, url: str) -> str | None:
    """A sentence about what is wrong; None when nothing is. Addresses are looked at when it is called: they may change."""
    try:
        target(url, deps.caller.allowed)
    except ValueError as error:
        return f"callback_url: {error}."
    with deps.database.transaction() as session:
        signed = bool(deps.operator_secret) or store.has_secret(session, connection_id)
    return (
        None
        if signed
        else "callback_url: this user has no secret to sign with; `sfsync callbacks add-secret` makes one."
    )
