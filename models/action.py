"""Actions: writes that callers asked for. The row is the work and the record of its outcome."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Created, Key, one_of

OPERATIONS = ("create", "update", "upsert", "delete")


KEY_CHARACTERS = 255  # of an idempotency key
SOURCES = ("http", "cli", "sql", "celery", "trigger")
AFTER_FAILURE = ("go_on", "wait")
WAYS = ("collection", "upsert", "bulk", "idempotency_key", "conditional")
INGEST_STAGES = ("create", "upload", "close", "wait", "lost", "over")
ACTION_STATES = ("waiting", "ready", "sending", "in_doubt", "delivered", "rejected", "conflict", "held", "cancelled")
FINISHED = ("delivered", "rejected", "conflict", "cancelled")
UNFINISHED = tuple(state for state in ACTION_STATES if state not in FINISHED)

# What a row may be, by the constraint's name. Columns of what was asked first, then what each state has and has not.
RULES = {
    "operation": one_of("operation", *OPERATIONS),
    "source": one_of("source", *SOURCES),
    "after_failure": one_of("after_failure", *AFTER_FAILURE),
    "record_named": "operation NOT IN ('update', 'delete') OR record_id IS NOT NULL",
    "record_id_whole": "record_id IS NULL OR char_length(record_id) = 18",
    "external_id_named": "operation <> 'upsert' OR external_id_field IS NOT NULL",
    "external_id_whole": "(external_id_field IS NULL) = (external_id IS NULL)",
    "external_id_used": "external_id_field IS NULL OR operation IN ('create', 'upsert')",
    "fields_are_an_object": "jsonb_typeof(fields) = 'object'",
    "delete_has_no_fields": "operation <> 'delete' OR fields = '{}'",
    "key_length": f"char_length(idempotency_key) BETWEEN 1 AND {KEY_CHARACTERS}",
    "content_hash_whole": "octet_length(content_hash) = 32",
    "mergeable_is_update": "NOT mergeable OR (operation = 'update' AND if_unmodified_since IS NULL)",
    "precondition_has_record": "if_unmodified_since IS NULL OR operation IN ('update', 'delete')",
    "counts": "attempts >= 0 AND (ticket >= 0 OR NOT checked)",
    "checked_before_sent": "checked OR state IN ('waiting', 'held', 'rejected', 'cancelled')",
    "state": one_of("state", *ACTION_STATES),
    "finished": f"({one_of('state', *FINISHED)}) = (finished_at IS NOT NULL)",
    "delivered_has_outcome": "(state = 'delivered') = (outcome IS NOT NULL)",
    "delivered_has_record": "state <> 'delivered' OR (record_id IS NOT NULL AND error IS NULL)",
    "made_when_delivered": "operation IN ('update', 'delete') OR record_id IS NULL OR state = 'delivered'",
    "remembered_when_delivered": "remembered_at IS NULL OR state = 'delivered'",
    "refusal_has_error": "state NOT IN ('rejected', 'conflict', 'held') OR error IS NOT NULL",
    "error_says_why": "(error ->> 'code') IS NOT NULL AND (error ->> 'message') IS NOT NULL OR error IS NULL",
    "conflict_had_precondition": "state <> 'conflict' OR if_unmodified_since IS NOT NULL",
    "sent_has_time": "state NOT IN ('sending', 'in_doubt') OR sent_at IS NOT NULL",
    "doubt_has_end": "state <> 'in_doubt' OR doubt_until IS NOT NULL",
    "claim_whole": "num_nulls(claim_token, claim_owner, claim_until) IN (0, 3)",
    "claimed_while_sent": "CASE state WHEN 'sending' THEN claim_token IS NOT NULL OR ingest_job_id IS NOT NULL"
    " WHEN 'in_doubt' THEN true ELSE claim_token IS NULL END",
    "way": one_of("way", *WAYS),
    "sent_has_way": "state NOT IN ('sending', 'in_doubt') OR way IS NOT NULL",
    "job_while_bulk": "ingest_job_id IS NULL OR way = 'bulk'",
}


class ActionLine(Base):
    """The order of acceptance of one record's actions: who holds this row's lock takes the next ticket."""

    __tablename__ = "action_lines"
    __table_args__ = (
        Index("ix_action_lines_blocked_by", "blocked_by", postgresql_where=text("blocked_by IS NOT NULL")),
        Index("ix_action_lines_quiet", "quiet_until", postgresql_where=text("quiet_until IS NOT NULL")),
    )

    connection_id: Mapped[int] = mapped_column(
        ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"), primary_key=True
    )
    object: Mapped[str] = mapped_column(Text, primary_key=True)
    order_key: Mapped[str] = mapped_column(Text, primary_key=True)
    next_ticket: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    quiet_until: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True)
    )  # an unanswered write may land until then
    blocked_by: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("sfsync.actions.id", ondelete="SET NULL")
    )  # it failed, and what follows it waits for a person


class ActionQueue(Base):
    """Which (connection, object) has work: a hint for the poller and the turn of each, so that nobody scans actions."""

    __tablename__ = "action_queues"
    __table_args__ = (UniqueConstraint("connection_id", "object"), Index("ix_action_queues_due", "next_due_at"))

    id: Mapped[Key]  # what a wake-up carries
    connection_id: Mapped[int] = mapped_column(ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"))
    object: Mapped[str] = mapped_column(Text)
    next_due_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_served_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    remembering_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # somebody tells the mirror
    bulk_after: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True)
    )  # the org took no Bulk job: not before then
    takes_keys: Mapped[bool | None] = mapped_column(Boolean)  # whether the org heeds idempotency keys for this object
    takes_keys_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # then it is asked again


class IngestJob(Base):
    """A Bulk 2.0 ingest job and the row's claim on it: one row is one job of the org at most.

    stage: create (nothing is in the org yet) → upload → close → wait → over; lost when the answer to its creation was: what
    the org made then, an open job without data, is aborted once it is old. Its actions are `sending` and name it. `sent_at` is
    the org's time, never ahead of it, before its creation.
    """

    __tablename__ = "ingest_jobs"
    __table_args__ = (
        CheckConstraint(one_of("operation", *OPERATIONS), name="operation"),
        CheckConstraint(one_of("state", "ready", "done"), name="state"),
        CheckConstraint(one_of("stage", *INGEST_STAGES), name="stage"),
        CheckConstraint("stage NOT IN ('upload', 'close', 'wait') OR job_id IS NOT NULL", name="job_known"),
        CheckConstraint("(state = 'done') = (finished_at IS NOT NULL)", name="finished"),
        UniqueConstraint("job_id"),
        Index("ix_ingest_jobs_due", "connection_id", "object", "due_at", postgresql_where=text("state = 'ready'")),
    )

    id: Mapped[Key]
    connection_id: Mapped[int] = mapped_column(ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"))
    object: Mapped[str] = mapped_column(Text)
    operation: Mapped[str] = mapped_column(Text)
    external_id_field: Mapped[str | None] = mapped_column(Text)
    job_id: Mapped[str | None] = mapped_column(Text)  # the org's
    state: Mapped[str] = mapped_column(Text, server_default="ready")
    stage: Mapped[str] = mapped_column(Text, server_default="create")
    rows: Mapped[int] = mapped_column(Integer)
    sent_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    due_at: Mapped[Created]
    claim_token: Mapped[int | None] = mapped_column(BigInteger)
    claim_owner: Mapped[str | None] = mapped_column(Text)
    claim_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Action(Base):
    """One intended write.

    state: waiting (behind another action of its line, or for a parent) → ready → sending → delivered or rejected; conflict when
    the record was changed since `if_unmodified_since`; in_doubt when sent and not answered; held when a person must decide;
    cancelled on request. `ticket` is its place in the line. `sent_at` is the org's time, never ahead of it, at which the batch
    that holds it was committed as sending. A create with `external_id_field` is sent as an upsert on that field, which makes
    sending it again harmless. `record_id` of a create is set by its outcome. `after_failure`: whether the next of its line goes
    on or waits when this one is held or rejected.
    """

    __tablename__ = "actions"
    __table_args__ = (
        Index(
            "uq_actions_idempotency_key",
            "connection_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        *(CheckConstraint(rule, name=name) for name, rule in RULES.items()),
        Index(
            "ix_actions_ready",
            "connection_id",
            "object",
            text("priority DESC"),
            "created_at",
            postgresql_where=text("state = 'ready'"),
        ),
        Index(
            "ix_actions_unchecked",
            "connection_id",
            "object",
            "created_at",
            postgresql_where=text("NOT checked"),
        ),
        # What has no ticket stands alone: most creates, which need not be found by their lines.
        Index(
            "uq_actions_ticket",
            "connection_id",
            "object",
            "order_key",
            "ticket",
            unique=True,
            postgresql_where=text("ticket <> 0"),
        ),
        Index(
            "ix_actions_line",
            "connection_id",
            "object",
            "order_key",
            "ticket",
            postgresql_where=text(f"ticket <> 0 AND {one_of('state', *UNFINISHED)}"),
        ),
        Index(
            "ix_actions_under_way",  # by state: those in doubt are few, and those in Bulk jobs may be 10,000s
            "connection_id",
            "object",
            "state",
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
        Index("ix_actions_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        Index(
            "ix_actions_made",
            "connection_id",
            "record_id",
            postgresql_where=text("operation IN ('create', 'upsert') AND record_id IS NOT NULL"),
        ),
        Index(
            "ix_actions_ingest_job",
            "ingest_job_id",
            postgresql_where=text("ingest_job_id IS NOT NULL"),
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
    after_failure: Mapped[str] = mapped_column(Text, server_default="go_on")
    mergeable: Mapped[bool] = mapped_column(
        Boolean, server_default=text("false")
    )  # with a waiting update of its record
    if_unmodified_since: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # the org's time
    callback_url: Mapped[str | None] = mapped_column(Text)  # told when it is finished or held
    state: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)  # http, cli, sql, celery, trigger
    checked: Mapped[bool] = mapped_column(Boolean, server_default=text("true"))  # against describe: SQL cannot do that
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    due_at: Mapped[Created]
    claim_token: Mapped[int | None] = mapped_column(BigInteger)
    claim_owner: Mapped[str | None] = mapped_column(Text)
    claim_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    sent_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    way: Mapped[str | None] = mapped_column(Text)  # how it was sent last
    ingest_job_id: Mapped[int | None] = mapped_column(
        ForeignKey("sfsync.ingest_jobs.id")
    )  # the Bulk job it went by last
    doubt_until: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True)
    )  # an unanswered sending may land until then
    outcome: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # {"id", "success", "created"?, "adopted"?}
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # {"code", "message", "fields"}: the last one
    remembered_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # its record was put in the mirror
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class ActionParent(Base):
    """A field of an action that is to get the id of the record that another action, its parent, makes."""

    __tablename__ = "action_parents"

    action_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sfsync.actions.id", ondelete="CASCADE"), primary_key=True)
    field: Mapped[str] = mapped_column(Text, primary_key=True)
    # A parent is not pruned before its children are, so that what a child was given can still be told.
    parent_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sfsync.actions.id"), index=True)


class ActionArrival(Base):
    """Actions that SQL enqueued in a transaction that is not over: its commit gives them their tickets and empties this.

    `xact`: the transaction. Nobody ever sees a row of another's.
    """

    __tablename__ = "action_arrivals"

    id: Mapped[Key]
    xact: Mapped[int] = mapped_column(BigInteger)
    action_ids: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid))


class ActionAttempt(Base):
    """One sending of an action, or one look at what became of it, and what the org said. Pruned with the action.

    `way`: how it went (a Collections call, a Bulk job, …) or "look" for a look into the org. `state`: what the action was after it.
    """

    __tablename__ = "action_attempts"

    action_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sfsync.actions.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[Created]
    way: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    code: Mapped[str | None] = mapped_column(Text)  # the org's, where it gave one
    message: Mapped[str | None] = mapped_column(Text)


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
