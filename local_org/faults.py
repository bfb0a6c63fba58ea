"""Trouble on request: rules that match calls and spoil them, as a test scripts it over the control path."""

import re
import threading
from dataclasses import dataclass, field
from typing import Any

from local_org.words import check_words


@dataclass(slots=True)
class Fault:
    """One rule. It lets `skip` matching calls pass, then spoils `times` of them (None: all).

    Actions, which may be combined: `status` (with `body`, `headers`) answers instead of the org;
    `delay_ms` waits before; `cut` "before" closes the connection before the call is carried out, "after"
    carries it out and then closes; `truncate_bytes` sends so many bytes of the answer and closes;
    `drip_bytes` with `drip_ms` sends slowly; `hang` never answers.
    """

    action: dict[str, Any]
    method: str | None = None
    path: re.Pattern[str] | None = None
    body: re.Pattern[str] | None = None
    times: int | None = 1
    skip: int = 0
    seen: int = 0
    spoilt: int = 0

    def matches(self, method: str, path: str, body: str) -> bool:
        if self.method is not None and self.method != method:
            return False
        if self.path is not None and not self.path.search(path):
            return False
        return self.body is None or self.body.search(body) is not None


@dataclass(frozen=True, slots=True)
class Match:
    """Which calls a rule is for, in its JSON form."""

    method: str | None = None
    path_regex: str = ""
    body_regex: str | None = None
    times: int | None = 1
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Action:
    """What happens to such a call, in its JSON form."""

    status: int = 200
    body: Any = ""
    headers: dict[str, Any] | None = None
    delay_ms: float = 0
    cut: str = "before"
    truncate_bytes: int = 0
    drip_bytes: int = 0
    drip_ms: float = 0
    hang: bool = False


def fault_of(data: dict[str, Any]) -> Fault:
    """A rule from its JSON form {"match": {…}, "action": {…}}. Raises ValueError for what it cannot mean."""
    given, action = data.get("match") or {}, data["action"]
    check_words(Match, given, "the match of a fault")
    check_words(Action, action, "the action of a fault")
    match, done = Match(**given), Action(**action)
    if not 200 <= done.status <= 599 or done.cut not in ("before", "after"):
        raise ValueError("a fault's status is from 200 to 599, its cut is before or after")
    if min(done.delay_ms, done.truncate_bytes, done.drip_bytes, done.drip_ms, match.skip) < 0:
        raise ValueError("the numbers of a fault are not negative")
    if any("\n" in line or "\r" in line or not line.isascii() for line in map(str, (done.headers or {}).values())):
        raise ValueError("a header of a fault is one line of ASCII")
    try:
        path, body = (text and re.compile(text) for text in (match.path_regex, match.body_regex))
    except re.error as error:
        raise ValueError(f"a pattern of the fault is wrong: {error}") from None
    return Fault(action, match.method and match.method.upper(), path or None, body or None, match.times, match.skip)


@dataclass(slots=True)
class Faults:
    """The rules in force, asked in the order in which they were added."""

    rules: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, data: dict[str, Any]) -> None:
        with self.lock:
            self.rules.append(fault_of(data))

    def clear(self) -> None:
        with self.lock:
            self.rules.clear()

    @property
    def need_body(self) -> bool:
        return any(rule.body is not None for rule in self.rules)

    def pick(self, method: str, path: str, body: str = "") -> dict[str, Any] | None:
        """The action for this call, counted as used; None in the good case."""
        if not self.rules:
            return None
        with self.lock:
            for rule in self.rules:
                if (rule.times is None or rule.spoilt < rule.times) and rule.matches(method, path, body):
                    rule.seen += 1
                    if rule.seen > rule.skip:
                        rule.spoilt += 1
                        return rule.action
        return None

    def listed(self) -> list[dict[str, Any]]:
        with self.lock:
            return [
                {"action": rule.action, "times": rule.times, "seen": rule.seen, "spoilt": rule.spoilt}
                for rule in self.rules
            ]
