"""Callbacks: what callers are told over HTTP, and the secrets that it is signed with."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Created, Key, one_of

KINDS = ("action.finished", "action.held", "connection.revoked", "run.finished")
CALLBACK_STATES = ("waiting", "delivered", "failed")


class CallbackSecret(Base):
    """One signing secret of a caller. Several sign while they are exchanged: until `retires_at` this one signs, too."""

    __tablename__ = "callback_secrets"

    id: Mapped[str] = mapped_column(Text, primary_key=True)  # names the row in the ciphertext's associated data
    connection_id: Mapped[int] = mapped_column(
        ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"), index=True
    )
    secret: Mapped[str] = mapped_column(Text)  # ciphertext
    created_at: Mapped[Created]
    retires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class CallbackEndpoint(Base):
    """One URL of one caller: served by one worker at a time, in order, so that a slow one keeps nobody else waiting.

    `failures`: calls in a row that failed; it is left alone for longer and longer. Disabled when it answers 410.
    """

    __tablename__ = "callback_endpoints"
    __table_args__ = (
        UniqueConstraint("connection_id", "url"),
        CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled"),
        CheckConstraint("num_nulls(claim_token, claim_owner, claim_until) IN (0, 3)", name="claim_whole"),
        Index("ix_callback_endpoints_due", "next_due_at", postgresql_where=text("next_due_at IS NOT NULL")),
    )

    id: Mapped[Key]
    connection_id: Mapped[int] = mapped_column(ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"))
    url: Mapped[str] = mapped_column(Text)
    next_due_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    disabled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    claim_token: Mapped[int | None] = mapped_column(BigInteger)
    claim_owner: Mapped[str | None] = mapped_column(Text)
    claim_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[Created]


class Callback(Base):
    """One thing to tell. `message_id` is the webhook-id: the same at each try, so that a receiver can tell a repetition."""

    __tablename__ = "callbacks"
    __table_args__ = (
        CheckConstraint(one_of("kind", *KINDS), name="kind"),
        CheckConstraint(one_of("state", *CALLBACK_STATES), name="state"),
        CheckConstraint("(state = 'waiting') = (finished_at IS NULL)", name="finished"),
        Index("ix_callbacks_due", "endpoint_id", "due_at", postgresql_where=text("state = 'waiting'")),
        Index("ix_callbacks_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    )

    id: Mapped[Key]
    message_id: Mapped[uuid.UUID] = mapped_column(
        Uuid, unique=True, server_default=text("pg_catalog.gen_random_uuid()")
    )
    endpoint_id: Mapped[int] = mapped_column(ForeignKey("sfsync.callback_endpoints.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(Text)
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(Text, server_default="waiting")
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    due_at: Mapped[Created]
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class CallbackAttempt(Base):
    """One call of a callback: what came of it. `status`: of the answer, None when there was none."""

    __tablename__ = "callback_attempts"

    callback_id: Mapped[int] = mapped_column(ForeignKey("sfsync.callbacks.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[Created]
    status: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None] = mapped_column(Text)
    seconds: Mapped[float] = mapped_column(Double)
