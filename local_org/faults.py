"""Trouble on request: rules that match calls and spoil them, as a test scripts it over the control path."""

import re
import threading
from dataclasses import dataclass, field
from typing import Any


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


ACTIONS = frozenset({"status", "body", "headers", "delay_ms", "cut", "truncate_bytes", "drip_bytes", "drip_ms", "hang"})


def fault_of(data: dict[str, Any]) -> Fault:
    """A rule from its JSON form {"match": {…}, "action": {…}}. Raises ValueError for unknown words."""
    match, action = data.get("match", {}), data["action"]
    unknown = set(match) - {"method", "path_regex", "body_regex", "times", "skip"} | set(action) - ACTIONS
    if unknown:
        raise ValueError(f"unknown words in the fault: {', '.join(sorted(unknown))}")
    method = match.get("method")
    return Fault(
        action=action,
        method=method and method.upper(),
        path=re.compile(match["path_regex"]) if "path_regex" in match else None,
        body=re.compile(match["body_regex"]) if "body_regex" in match else None,
        times=match.get("times", 1),
        skip=match.get("skip", 0),
    )


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
