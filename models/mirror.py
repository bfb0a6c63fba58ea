"""Mirrors, the runs that bring them up to date, and what those found.

The mirror tables themselves are derived from the org's describe, not declared here.
"""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    Sequence,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Created, Instant, Key, one_of

MIRROR_STATES = ("new", "loading", "live", "paused")
RUN_KINDS = ("load", "refresh", "settle", "children", "verify", "backfill")
DEPTHS = ("full", "sample", "quick")
ROUTES = ("bulk", "rest")  # rest: the org said that Bulk does not serve this object
RUN_STATES = ("ready", "done", "failed", "parked")  # a ready run is claimable from due_at on
PAGE_STATES = ("ready", "loaded")
CHANGE_RATE_SECONDS = 14_400.0  # a mirror's change rate is smoothed over about so long
IDLE_SETTLES = 3  # where nothing changes, the settle reader comes this many times more seldom

read_numbers = Sequence("read_numbers", metadata=Base.metadata)  # taken before a read's request is sent
claim_tokens = Sequence("claim_tokens", metadata=Base.metadata)  # owner tokens only grow

ACTIVE_RUN = text("state = 'ready'")


class Mirror(Base):
    """Our copy of one object of one connection.

    `fresh_cursor`: all changes stamped before it, and visible when it moved, are here. `settled_cursor`: known
    complete up to here. Both are the org's time, which is ahead of Postgres's clock by `clock_skew_seconds`. `fields` and
    `row_filter` narrow the mirror; None means everything. `route`: how large reads go, once it is known.
    """

    __tablename__ = "mirrors"
    __table_args__ = (
        UniqueConstraint("connection_id", "object"),
        CheckConstraint(one_of("state", *MIRROR_STATES), name="state"),
        CheckConstraint("state <> 'live' OR fresh_cursor IS NOT NULL", name="live_has_cursor"),
        CheckConstraint("settled_cursor <= fresh_cursor", name="settled_is_not_ahead"),
        CheckConstraint(one_of("route", *ROUTES), name="route"),
        Index("ix_mirrors_due", "next_refresh_at", postgresql_where=text("state = 'live'")),
        Index("ix_mirrors_settle_due", "next_settle_at", postgresql_where=text("state = 'live'")),
    )

    id: Mapped[Key]
    connection_id: Mapped[int] = mapped_column(ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"))
    object: Mapped[str] = mapped_column(Text)  # API name, canonical case
    table_name: Mapped[str] = mapped_column(Text)  # in the connection's schema
    fields: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    row_filter: Mapped[str | None] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, server_default="new")
    state_reason: Mapped[str | None] = mapped_column(Text)
    describe: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # the org's last answer, for checks at the door
    describe_modified: Mapped[str | None] = mapped_column(Text)  # its Last-Modified, ISO 8601
    described_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # when the org was last asked for it
    skipped_fields: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    lost_fields: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))  # columns that stand still
    unfilled_fields: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))  # wait for a back-fill
    layout: Mapped[dict[str, int]] = mapped_column(
        JSONB, server_default=text("'{}'::jsonb")
    )  # column → part of the table
    unfilled_number: Mapped[int | None] = mapped_column(BigInteger)  # a read with a greater number fills them
    columns: Mapped[list[str] | None] = mapped_column(ARRAY(Text))  # that a read must bring now; None: not described
    lost_since: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # the org no longer shows the object
    stamp_field: Mapped[str | None] = mapped_column(Text)  # SystemModstamp, or what stands in for it
    fresh_cursor: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    settled_cursor: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    refresh_seconds: Mapped[float] = mapped_column(Float, server_default=text("60"))  # what its user wants
    effective_seconds: Mapped[float | None] = mapped_column(Float)  # what the allowance permits; None: what is wanted
    effective_reason: Mapped[str | None] = mapped_column(Text)  # why the two differ
    change_rate: Mapped[float] = mapped_column(Float, server_default=text("0"))  # records changed an hour, smoothed
    rated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    refresh_calls: Mapped[float] = mapped_column(Float, server_default=text("1"))  # org calls of one refresh, smoothed
    settle_calls: Mapped[float] = mapped_column(Float, server_default=text("1"))  # the same of a settle read
    next_refresh_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    next_settle_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    refreshed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # the org's time of the last read
    clock_skew_seconds: Mapped[float] = mapped_column(
        Float, server_default=text("0")
    )  # of the org's clock against ours
    route: Mapped[str] = mapped_column(Text, server_default="bulk")
    verified_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    audit_seconds: Mapped[float | None] = mapped_column(Float)  # None: as the settings say; 0: never
    next_audit_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # None: not planned yet
    has_rows: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))  # there were some: empty is damaged
    created_at: Mapped[Created]

    @property
    def stretch(self) -> float:
        """How many times as long as wanted the interval is, while its org is short of calls. Settle reads and looks at the
        describe stretch with it: together they cost more calls than the refreshes."""
        return max(1.0, (self.effective_seconds or self.refresh_seconds) / self.refresh_seconds)


class Run(Base):
    """One resumable attempt to bring a mirror up to date. A row that is `ready` is work: claimable from `due_at` on.

    `stage` says what the next step does. `read_number` was taken before the read's request was sent. `job_id` names
    the Bulk job, so that whoever takes the run over re-attaches to it. Attempts are counted at the claim and set back
    by progress.
    """

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(one_of("kind", *RUN_KINDS), name="kind"),
        CheckConstraint(one_of("state", *RUN_STATES), name="state"),
        CheckConstraint("(state IN ('done', 'failed')) = (finished_at IS NOT NULL)", name="finished"),
        Index("uq_runs_active", "mirror_id", "kind", unique=True, postgresql_where=ACTIVE_RUN),
        Index("ix_runs_open", "mirror_id", postgresql_where=text("state IN ('ready', 'parked')")),
        Index("ix_runs_due", "lane", "due_at", postgresql_where=ACTIVE_RUN),
        Index("ix_runs_mirror_id_id", "mirror_id", "id"),
        Index("ix_runs_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    )

    id: Mapped[Key]
    mirror_id: Mapped[int] = mapped_column(ForeignKey("sfsync.mirrors.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(Text)
    lane: Mapped[str] = mapped_column(Text)
    cause: Mapped[str] = mapped_column(Text)  # timetable, manual, connect, drift, parent
    state: Mapped[str] = mapped_column(Text, server_default="ready")
    stage: Mapped[str] = mapped_column(Text, server_default="begin")
    options: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    due_at: Mapped[Created]
    claim_token: Mapped[int | None] = mapped_column(BigInteger)
    claim_owner: Mapped[str | None] = mapped_column(Text)
    claim_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    read_number: Mapped[int | None] = mapped_column(BigInteger)
    window_start: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # None: everything is read
    window_end: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # None: up to now
    read_started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # the org's time
    job_id: Mapped[str | None] = mapped_column(Text)
    columns: Mapped[list[str] | None] = mapped_column(ARRAY(Text))  # fields asked for
    staging: Mapped[str | None] = mapped_column(Text)  # table the pages go to; None: the mirror itself
    rows_expected: Mapped[int | None] = mapped_column(BigInteger)
    rows_read: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    rows_changed: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    rows_deleted: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    rows_rejected: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    nul_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    calls: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # org calls spent
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[Created]
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Sync(Base):
    """Runs that were asked for together, under one id that a caller can follow."""

    __tablename__ = "syncs"
    __table_args__ = (
        Index("ix_syncs_newest", "connection_id", "created_at"),
        Index("ix_syncs_created_at", "created_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    connection_id: Mapped[int] = mapped_column(ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"))
    created_at: Mapped[Created]


class SyncRun(Base):
    """One run of a sync. A run that was under way already may belong to several."""

    __tablename__ = "sync_runs"

    sync_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sfsync.syncs.id", ondelete="CASCADE"), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("sfsync.runs.id", ondelete="CASCADE"), primary_key=True, index=True)


class RunPage(Base):
    """One page of a run's Bulk result. Its COPY and its state commit together: a kill costs one page."""

    __tablename__ = "run_pages"
    __table_args__ = (
        UniqueConstraint("run_id", "number"),
        CheckConstraint(one_of("state", *PAGE_STATES), name="state"),
        CheckConstraint("(state = 'loaded') = (loaded_at IS NOT NULL)", name="loaded"),
        Index("ix_run_pages_ready", "run_id", "number", postgresql_where=text("state = 'ready'")),
    )

    id: Mapped[Key]
    run_id: Mapped[int] = mapped_column(ForeignKey("sfsync.runs.id", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(Integer)  # from 1
    locator: Mapped[str | None] = mapped_column(Text)  # None: the first page
    state: Mapped[str] = mapped_column(Text, server_default="ready")
    claim_token: Mapped[int | None] = mapped_column(BigInteger)
    claim_owner: Mapped[str | None] = mapped_column(Text)
    claim_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    rows: Mapped[int | None] = mapped_column(BigInteger)
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    loaded_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class ChildRead(Base):
    """A parent that left, came back or was merged: its children in this mirror must be read again, by look-up field.

    Children are deleted, restored or let go with their parent, perhaps without a new stamp. A load that was under way
    may bring them as they were before: with `after_run` they are read once more when that run has ended.
    """

    __tablename__ = "child_reads"
    __table_args__ = (Index("ix_child_reads_mirror_id_id", "mirror_id", "id"),)

    id: Mapped[Key]
    mirror_id: Mapped[int] = mapped_column(ForeignKey("sfsync.mirrors.id", ondelete="CASCADE"))  # the children's
    field: Mapped[str] = mapped_column(Text)  # the look-up
    parent_id: Mapped[str] = mapped_column(Text)
    restored: Mapped[bool] = mapped_column(Boolean)  # False: it left
    after_run: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[Created]


class Reject(Base):
    """A record that Postgres refused even as text, kept as the org sent it."""

    __tablename__ = "rejects"

    id: Mapped[Key]
    mirror_id: Mapped[int] = mapped_column(ForeignKey("sfsync.mirrors.id", ondelete="CASCADE"), index=True)
    run_id: Mapped[int | None] = mapped_column(ForeignKey("sfsync.runs.id", ondelete="SET NULL"), index=True)
    record_id: Mapped[str] = mapped_column(Text)
    record: Mapped[dict[str, Any]] = mapped_column(JSONB)
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[Created]


class Verification(Base):
    """One proof of a mirror: what was compared, what differed, what it cost."""

    __tablename__ = "verifications"
    __table_args__ = (
        CheckConstraint(one_of("depth", *DEPTHS), name="depth"),
        Index("ix_verifications_newest", "mirror_id", "depth", "id"),
        Index("ix_verifications_finished_at", "finished_at"),
    )

    id: Mapped[Key]
    mirror_id: Mapped[int] = mapped_column(ForeignKey("sfsync.mirrors.id", ondelete="CASCADE"))
    run_id: Mapped[int | None] = mapped_column(ForeignKey("sfsync.runs.id", ondelete="SET NULL"), index=True)
    depth: Mapped[str] = mapped_column(Text)
    started_at: Mapped[Instant]
    finished_at: Mapped[Instant]
    records: Mapped[int] = mapped_column(BigInteger)  # records compared
    fields: Mapped[int] = mapped_column(Integer)  # fields compared of each
    differences: Mapped[int] = mapped_column(BigInteger)  # records that differ, are missing or are too many
    missing: Mapped[int] = mapped_column(BigInteger)  # in the org, not here
    surplus: Mapped[int] = mapped_column(BigInteger)  # here, not in the org
    calculated: Mapped[int] = mapped_column(
        BigInteger, server_default=text("0")
    )  # of these: in calculated fields alone
    rejected: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # of these: no column can hold them
    moved: Mapped[int] = mapped_column(BigInteger)  # looked different, changed meanwhile
    repaired: Mapped[int] = mapped_column(BigInteger)
    calls: Mapped[int] = mapped_column(BigInteger)
    nul_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # which text of Postgres cannot hold
    cause: Mapped[str] = mapped_column(Text, server_default="manual")  # manual, audit, drift
    details: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))  # the first few


class Drift(Base):
    """A change of an object, its fields or its table that a mirror followed. `field` is empty where it concerns all."""

    __tablename__ = "drift"

    id: Mapped[Key]
    mirror_id: Mapped[int] = mapped_column(ForeignKey("sfsync.mirrors.id", ondelete="CASCADE"), index=True)
    field: Mapped[str] = mapped_column(Text)
    change: Mapped[str] = mapped_column(Text)  # see worker.mirror.schema.Change
    detail: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[Created]
