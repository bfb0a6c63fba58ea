"""Choosing actions by user, state, object, error and age: the same options for every command that takes them."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import wraps
from typing import Annotated, Any
from uuid import UUID

import typer

from models.action import ACTION_STATES
from worker.actions import store
from worker.errors import SettingsError
from worker.runtime import Runtime

PAGE = 1_000

User = Annotated[str | None, typer.Option("--user-id", help="Only of this user.")]
States = Annotated[list[str] | None, typer.Option("--state", help=f"Only in these states: {', '.join(ACTION_STATES)}.")]
Object = Annotated[str | None, typer.Option("--object", help="Only of this object.")]
Code = Annotated[str | None, typer.Option("--error", help="Only with this error code.")]
Key = Annotated[str | None, typer.Option("--idempotency-key", help="Only the one with this key.")]
OlderThan = Annotated[float | None, typer.Option("--older-than", min=0, help="Only accepted longer ago, in minutes.")]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which actions are meant; nothing given: all."""

    user_id: str | None = None
    states: tuple[str, ...] = ()
    object_name: str | None = None
    error_code: str | None = None
    idempotency_key: str | None = None
    older_than_minutes: float | None = None

    def __bool__(self) -> bool:
        return self != Choice()

    def within(self, lawful: frozenset[str]) -> "Choice | None":
        """Those of them in these states; None where no other states were asked for."""
        states = sorted(set(self.states or lawful) & lawful)
        return replace(self, states=tuple(states)) if states else None

    def find(self, rt: Runtime) -> Iterator[dict[str, Any]]:
        """Every action that is meant, newest first, a page at a time: the memory stays small."""
        before: tuple[datetime, UUID] | None = None
        while True:
            with rt.database.transaction() as session:
                page = store.find(
                    session,
                    user_ids=[self.user_id] if self.user_id else None,
                    states=self.states,
                    object_name=self.object_name,
                    error_code=self.error_code,
                    idempotency_key=self.idempotency_key,
                    older_than_minutes=self.older_than_minutes,
                    before=before,
                    limit=PAGE,
                )
            yield from page
            if len(page) < PAGE:
                return
            before = (page[-1]["created_at"], page[-1]["id"])


def choice(
    user_id: User = None,
    states: States = None,
    object_name: Object = None,
    code: Code = None,
    key: Key = None,
    older_than: OlderThan = None,
) -> Choice:
    """The choice that these options make. Raises SettingsError for a state that does not exist."""
    wrong = sorted(set(states or ()) - set(ACTION_STATES))
    if wrong:
        raise SettingsError(f"--state {wrong[0]}: choose from {', '.join(ACTION_STATES)}")
    return Choice(user_id, tuple(states or ()), object_name, code, key, older_than)


def choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `choice`, in place of its parameter `chosen`."""
    own = inspect.signature(command).parameters
    options = inspect.signature(choice).parameters

    @wraps(command)
    def chosen_first(**given: Any) -> None:
        chosen = choice(**{name: given.pop(name) for name in options})
        command(chosen=chosen, **given)

    merged = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in own.items()
        for each in (options.values() if name == "chosen" else (one,))
    ]
    chosen_first.__signature__ = inspect.Signature(merged)  # type: ignore[attr-defined]  # what typer reads
    chosen_first.__annotations__ = {one.name: one.annotation for one in merged}
    return chosen_first
