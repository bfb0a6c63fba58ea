"""Triggers: work that a timetable or a caller starts; and the firings that did."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Created, Instant, Key, one_of

TRIGGER_TYPES = ("manual_trigger", "scheduled_trigger")
WORKFLOW_ACTIONS = ("execute_service", "process_data")
MISSED_POLICIES = ("skip", "once", "all")
OVERLAP_POLICIES = ("skip", "queue", "allow")
FIRING_CAUSES = ("schedule", "manual")
FIRING_STATES = ("waiting", "ready", "running", "done", "failed", "skipped")
FINISHED_FIRINGS = ("done", "failed", "skipped")
ACTIVE_FIRING = text(one_of("state", "waiting", "ready", "running"))


class Trigger(Base):
    """What to do, and when. A manual trigger waits for callers; a scheduled one has a cron line or an interval.

    `next_due_at` is the next due time that nobody has dealt with; None for what is manual or not enabled. An interval counts from
    `anchor`. `missed`: what becomes of due times that passed by more than `grace_seconds` while nobody looked: none of them, one
    for all, or each of the newest `missed_limit`. `overlap`: what becomes of one that falls due while earlier work of this trigger is
    unfinished. `work` is what is done, by `workflow_action`: {"capability", "parameters"} or {"actions"}; {"objects"} (empty: all).
    """

    __tablename__ = "triggers"
    __table_args__ = (
        UniqueConstraint("connection_id", "name"),
        CheckConstraint(one_of("type", *TRIGGER_TYPES), name="type"),
        CheckConstraint(one_of("workflow_action", *WORKFLOW_ACTIONS), name="workflow_action"),
        CheckConstraint(one_of("missed", *MISSED_POLICIES), name="missed"),
        CheckConstraint(one_of("overlap", *OVERLAP_POLICIES), name="overlap"),
        CheckConstraint(
            "(type = 'scheduled_trigger')::int = num_nonnulls(cron, every_seconds)", name="schedule_of_scheduled"
        ),
        CheckConstraint("every_seconds > 0", name="every_seconds"),
        CheckConstraint("missed_limit > 0 AND grace_seconds > 0", name="limits"),
        CheckConstraint(
            "next_due_at IS NULL OR (enabled AND type = 'scheduled_trigger')", name="due_only_when_enabled"
        ),
        Index("ix_triggers_due", "next_due_at", postgresql_where=text("next_due_at IS NOT NULL")),
    )

    id: Mapped[Key]
    connection_id: Mapped[int] = mapped_column(ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(Text)
    cron: Mapped[str | None] = mapped_column(Text)  # five fields
    time_zone: Mapped[str] = mapped_column(Text, server_default="UTC")  # IANA name
    every_seconds: Mapped[float | None] = mapped_column(Float)
    anchor: Mapped[Instant]
    workflow_action: Mapped[str] = mapped_column(Text)
    work: Mapped[dict[str, Any]] = mapped_column(JSONB)
    missed: Mapped[str] = mapped_column(Text)
    missed_limit: Mapped[int] = mapped_column(Integer)
    grace_seconds: Mapped[float] = mapped_column(Float)
    overlap: Mapped[str] = mapped_column(Text)
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    next_due_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[Created]
    updated_at: Mapped[Created] = mapped_column(onupdate=func.clock_timestamp())


class Firing(Base):
    """One time that a trigger fired, or should have: unique by due time, or by the caller's idempotency key.

    state: waiting (behind earlier work of its trigger) → ready → running (runs and actions were asked for) → done or failed;
    skipped when a policy said so. `work` is what is done, with the caller's parameters in it: a later change of the trigger does
    not change it. `missed`: due times before it that it stands for. `look_at`: not taken up again before.
    """

    __tablename__ = "firings"
    __table_args__ = (
        UniqueConstraint("trigger_id", "due_at"),
        UniqueConstraint("trigger_id", "idempotency_key"),
        CheckConstraint(one_of("cause", *FIRING_CAUSES), name="cause"),
        CheckConstraint(one_of("state", *FIRING_STATES), name="state"),
        CheckConstraint("(cause = 'schedule') = (due_at IS NOT NULL)", name="due_by_schedule"),
        CheckConstraint(f"({one_of('state', *FINISHED_FIRINGS)}) = (finished_at IS NOT NULL)", name="finished"),
        CheckConstraint("state NOT IN ('failed', 'skipped') OR reason IS NOT NULL", name="refusal_has_reason"),
        Index("ix_firings_active", "state", "look_at", postgresql_where=ACTIVE_FIRING),
        Index("ix_firings_unfinished", "trigger_id", "state", postgresql_where=ACTIVE_FIRING),
        Index("ix_firings_trigger_id_id", "trigger_id", "id"),
        Index("ix_firings_finished_at", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    )

    id: Mapped[Key]
    trigger_id: Mapped[int] = mapped_column(ForeignKey("sfsync.triggers.id", ondelete="CASCADE"))
    cause: Mapped[str] = mapped_column(Text)
    due_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    parameters: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    work: Mapped[dict[str, Any]] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)  # why it was skipped or failed, or is put off
    missed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    run_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default=text("'{}'"))
    action_ids: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid), server_default=text("'{}'"))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # what a capability that only reads answered
    look_at: Mapped[Created]
    claim_token: Mapped[int | None] = mapped_column(BigInteger)
    claim_owner: Mapped[str | None] = mapped_column(Text)
    claim_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    fired_at: Mapped[Created]
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
