"""Actions: writes that callers asked for. The row is the work and the record of its outcome."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Created, Key, one_of

OPERATIONS = ("create", "update", "upsert", "delete")
ACTION_STATES = ("waiting", "ready", "sending", "in_doubt", "delivered", "rejected", "held", "cancelled")
FINISHED = ("delivered", "rejected", "cancelled")
UNFINISHED = tuple(state for state in ACTION_STATES if state not in FINISHED)


class ActionLine(Base):
    """The order of acceptance of one record's actions: who holds this row's lock takes the next ticket."""

    __tablename__ = "action_lines"

    connection_id: Mapped[int] = mapped_column(
        ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"), primary_key=True
    )
    object: Mapped[str] = mapped_column(Text, primary_key=True)
    order_key: Mapped[str] = mapped_column(Text, primary_key=True)
    next_ticket: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    quiet_until: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True)
    )  # an unanswered write may land until then


class ActionQueue(Base):
    """Which (connection, object) has work: a hint for the poller and the turn of each, so that nobody scans actions."""

    __tablename__ = "action_queues"
    __table_args__ = (UniqueConstraint("connection_id", "object"), Index("ix_action_queues_due", "next_due_at"))

    id: Mapped[Key]  # what a wake-up carries
    connection_id: Mapped[int] = mapped_column(ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"))
    object: Mapped[str] = mapped_column(Text)
    next_due_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_served_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Action(Base):
    """One intended write.

    state: waiting (behind another action of its line) → ready → sending → delivered or rejected; in_doubt when sent and not
    answered; held when a person must decide; cancelled on request. `ticket` is its place in the line. `sent_at` is the org's
    time, never ahead of it, at which the batch that holds it was committed as sending. A create with `external_id_field`
    is sent as an upsert on that field, which makes sending it again harmless. `record_id` of a create is set by its outcome.
    """

    __tablename__ = "actions"
    __table_args__ = (
        UniqueConstraint("connection_id", "idempotency_key"),
        UniqueConstraint("connection_id", "object", "order_key", "ticket"),
        CheckConstraint(one_of("operation", *OPERATIONS), name="operation"),
        CheckConstraint(one_of("state", *ACTION_STATES), name="state"),
        CheckConstraint("operation NOT IN ('update', 'delete') OR record_id IS NOT NULL", name="record_named"),
        CheckConstraint("operation <> 'upsert' OR external_id_field IS NOT NULL", name="external_id_named"),
        CheckConstraint("(external_id_field IS NULL) = (external_id IS NULL)", name="external_id_whole"),
        CheckConstraint(f"({one_of('state', *FINISHED)}) = (finished_at IS NOT NULL)", name="finished"),
        CheckConstraint("(state = 'delivered') = (outcome IS NOT NULL)", name="delivered_has_outcome"),
        CheckConstraint("state NOT IN ('rejected', 'held') OR error IS NOT NULL", name="refusal_has_error"),
        CheckConstraint("state NOT IN ('sending', 'in_doubt') OR sent_at IS NOT NULL", name="sent_has_time"),
        Index(
            "ix_actions_ready",
            "connection_id",
            "object",
            text("priority DESC"),
            "created_at",
            postgresql_where=text("state = 'ready'"),
        ),
        Index(
            "ix_actions_line",
            "connection_id",
            "object",
            "order_key",
            "ticket",
            postgresql_where=text(one_of("state", *UNFINISHED)),
        ),
        Index(
            "ix_actions_sent",
            "connection_id",
            "object",
            "claim_until",
            postgresql_where=text("state IN ('sending', 'in_doubt')"),
        ),
        Index(
            "ix_actions_unremembered",
            "connection_id",
            "object",
            "finished_at",
            postgresql_where=text("state = 'delivered' AND remembered_at IS NULL"),
        ),
        Index(
            "ix_actions_made",
            "connection_id",
            "record_id",
            postgresql_where=text("operation IN ('create', 'upsert') AND record_id IS NOT NULL"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    connection_id: Mapped[int] = mapped_column(ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"))
    object: Mapped[str] = mapped_column(Text)
    operation: Mapped[str] = mapped_column(Text)
    record_id: Mapped[str | None] = mapped_column(Text)  # 18 characters
    external_id_field: Mapped[str | None] = mapped_column(Text)
    external_id: Mapped[str | None] = mapped_column(Text)
    fields: Mapped[dict[str, Any]] = mapped_column(JSONB)
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    content_hash: Mapped[bytes] = mapped_column(
        LargeBinary
    )  # SHA-256 of what was asked: same key, other content is refused
    order_key: Mapped[str] = mapped_column(Text)  # actions with the same key are applied in order of ticket
    ticket: Mapped[int] = mapped_column(BigInteger)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    state: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)  # http, cli, sql, celery, trigger
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    due_at: Mapped[Created]
    claim_token: Mapped[int | None] = mapped_column(BigInteger)
    claim_owner: Mapped[str | None] = mapped_column(Text)
    claim_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    sent_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    doubt_until: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True)
    )  # an unanswered sending may land until then
    outcome: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # {"id", "success", "created"?, "adopted"?}
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # {"code", "message", "fields"}: the last one
    remembered_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # its record was put in the mirror
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class ObjectDescribe(Base):
    """The org's describe of an object that is written to, kept so that the door can check without asking the org.

    A mirror keeps its own (`mirrors.describe`), which is looked at first; `object` is in lower case.
    """

    __tablename__ = "object_describes"

    connection_id: Mapped[int] = mapped_column(
        ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"), primary_key=True
    )
    object: Mapped[str] = mapped_column(Text, primary_key=True)
    describe: Mapped[dict[str, Any]] = mapped_column(JSONB)
    fetched_at: Mapped[Created]
