"""The states of an action, and which may follow which. Pure; the table's CHECK constraints refuse what is unlawful in itself.

waiting ──> ready ──> sending ──> delivered | rejected | conflict
               ^         │ └────> held ──(a person)──> waiting
               │         v
               └───── in_doubt ─> delivered (found in the org) | held

An update that waits behind another of its record may be sent with it (waiting → sending), and waits again when that must be
repeated. What waits for a parent is rejected or held where the parent is.
"""

from datetime import timedelta

LAWFUL: dict[str, frozenset[str]] = {
    "waiting": frozenset({"ready", "sending", "rejected", "held", "cancelled"}),
    "ready": frozenset({"sending", "cancelled"}),
    "sending": frozenset({"waiting", "ready", "in_doubt", "delivered", "rejected", "conflict", "held"}),
    "in_doubt": frozenset({"waiting", "ready", "in_doubt", "delivered", "rejected", "conflict", "held"}),
    "held": frozenset({"waiting", "cancelled"}),
    "rejected": frozenset({"waiting", "cancelled"}),
    "conflict": frozenset({"waiting", "cancelled"}),
    "delivered": frozenset(),
    "cancelled": frozenset(),
}
FINISHED = frozenset({"delivered", "rejected", "conflict", "cancelled"})
FAILED = frozenset({"rejected", "conflict", "held"})
SETTLED = FINISHED | {"held"}  # nothing more happens by itself: a caller need not wait any longer
PASSED = SETTLED  # the next of the line may go on, unless it was asked to wait for a person after a failure
RETRYABLE = frozenset({"held", "rejected", "conflict"})  # by a person
CANCELLABLE = frozenset({"waiting", "ready", "held"})  # nothing of it is under way

ATTEMPTS = 12  # sendings without an answer that counts, after which a person must look
LONGEST_PAUSE_SECONDS = 300.0


def is_lawful(before: str, after: str) -> bool:
    """Whether an action may go from one state to another."""
    return after in LAWFUL[before]


def pause(attempts: int, chance: float) -> timedelta:
    """How long to wait after the `attempts`-th try (1, 2, …): about 1 s, 2 s, 4 s … five minutes; `chance` in 0 ≤ c < 1 spreads it."""
    seconds = min(float(2 ** min(attempts - 1, 20)), LONGEST_PAUSE_SECONDS)
    return timedelta(seconds=seconds * (0.5 + chance))


def is_exhausted(attempts: int) -> bool:
    """Whether an action was tried often enough."""
    return attempts >= ATTEMPTS
