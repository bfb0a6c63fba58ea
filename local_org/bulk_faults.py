"""Trouble with Bulk jobs on request: jobs that fail or hang, result pages that are cut or lie.

What goes wrong on the wire (status, delays, cut connections) is the business of `faults`; these answers are whole
HTTP answers with wrong content.
"""

import threading
from dataclasses import dataclass, field
from typing import Any

from local_org.words import check_words

JOB_KINDS = frozenset({"fail", "hang"})
HALFWAY_KINDS = frozenset({"fail_halfway"})
PAGE_KINDS = frozenset({"drop_rows", "wrong_count", "early_end"})


@dataclass(slots=True)
class BulkFault:
    """One rule, for jobs of `object` (None: of any), used `times` times (None: always), after `skip` uses let pass.

    Kinds: `fail` ends the job as Failed with `message`; `fail_halfway` an ingest job when `rows` rows were carried out, which
    stay as they are; `hang` leaves it InProgress until it is aborted or the
    rules are cleared; `drop_rows` leaves the last `rows` rows out of a page whose headers count them;
    `wrong_count` adds `rows` to the header that counts; `early_end` says that the page is the last.
    """

    kind: str
    object: str | None = None
    times: int | None = 1
    skip: int = 0
    rows: int = 1
    message: str = "InternalServerError : Retried more than 15 times"

    def __post_init__(self) -> None:
        if self.kind not in JOB_KINDS | HALFWAY_KINDS | PAGE_KINDS:
            raise ValueError(f"unknown kind of fault: {self.kind}")


@dataclass(slots=True)
class BulkFaults:
    """The rules in force."""

    rules: list[BulkFault] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, data: dict[str, Any]) -> None:
        """A rule from its JSON form. Raises ValueError for unknown words."""
        check_words(BulkFault, data, "the fault")
        with self.changed:
            self.rules.append(BulkFault(**data))

    def clear(self) -> None:
        with self.changed:
            self.rules.clear()
            self.changed.notify_all()

    def take(self, kinds: frozenset[str], object_name: str) -> BulkFault | None:
        """The first rule that is due, counted as used."""
        with self.changed:
            for rule in self.rules:
                named = rule.object is None or rule.object.lower() == object_name.lower()
                if rule.kind in kinds and named and rule.times != 0:
                    if rule.skip > 0:
                        rule.skip -= 1
                        continue
                    if rule.times is not None:
                        rule.times -= 1
                    return rule
        return None

    def in_force(self, rule: BulkFault) -> bool:
        """Whether a rule, though it may be used up, has not been cleared."""
        with self.changed:
            return any(known is rule for known in self.rules)
