"""Connections: one user's grant to one org. Tokens are stored as ciphertext only (worker/tokens/vault.py)."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Float, ForeignKey, Index, Integer, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Created, Key, one_of

GRANTS = ("authorization_code", "refresh_token", "client_credentials", "jwt_bearer")
CONNECTION_STATES = ("active", "revoked", "disconnected")


class Org(Base):
    """A Salesforce organization: owns the API allowance, as the org itself last reported it.

    `permits`: calls that processes may make and have not accounted for yet, by the minute they were granted (epoch
    seconds); a block lapses after five minutes. `limits`: the allowances of GET /limits that concern us.
    """

    __tablename__ = "orgs"

    organization_id: Mapped[str] = mapped_column(Text, primary_key=True)  # 18 characters
    api_used: Mapped[int | None] = mapped_column(BigInteger)
    api_max: Mapped[int | None] = mapped_column(BigInteger)
    api_reported_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # the org's time
    permits: Mapped[dict[str, int]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    reserve_left: Mapped[int | None] = mapped_column(BigInteger)  # of the calls kept for actions, those not yet made
    blocked_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # it said that all calls are spent
    limits: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    limits_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    forecast: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))  # of the planner
    created_at: Mapped[Created]


class Connection(Base):
    """One user's grant to one org.

    state: active → revoked (the org refused the grant: a person must reconnect) or disconnected (by us, on request).
    `token_version` grows with every stored pair; who renews names the version that failed.
    """

    __tablename__ = "salesforce_oauth_tokens"
    __table_args__ = (
        CheckConstraint(one_of("state", *CONNECTION_STATES), name="state"),
        CheckConstraint(one_of("grant_type", *GRANTS), name="grant_type"),
        CheckConstraint("state <> 'active' OR access_token IS NOT NULL", name="active_has_token"),
        CheckConstraint(
            "(grant_type = 'jwt_bearer' AND state <> 'disconnected') <= (jwt_key IS NOT NULL AND username IS NOT NULL)",
            name="jwt_has_key",
        ),
        Index("ix_salesforce_oauth_tokens_renew_at", "renew_at", postgresql_where=text("renew_at IS NOT NULL")),
        {"schema": "public"},
    )

    id: Mapped[Key]
    user_id: Mapped[str] = mapped_column(Text, unique=True)
    access_token: Mapped[str | None] = mapped_column(Text)  # v1|key id|nonce|ciphertext
    refresh_token: Mapped[str | None] = mapped_column(Text)
    scope: Mapped[str | None] = mapped_column(Text)
    organization_id: Mapped[str | None] = mapped_column(Text, index=True)
    profile_id: Mapped[str | None] = mapped_column(Text)
    instance_url: Mapped[str | None] = mapped_column(Text)
    username: Mapped[str | None] = mapped_column(Text)
    environment: Mapped[str] = mapped_column(Text, server_default="production")
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[Created]
    updated_at: Mapped[Created] = mapped_column(onupdate=func.clock_timestamp())

    grant_type: Mapped[str] = mapped_column(Text)
    login_url: Mapped[str] = mapped_column(Text)
    salesforce_user_id: Mapped[str | None] = mapped_column(Text)
    former_salesforce_user_id: Mapped[str | None] = mapped_column(Text)  # whose grant it was until `user_changed_at`
    user_changed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    schema_name: Mapped[str] = mapped_column(Text, unique=True)  # the Postgres schema of its mirrors
    state: Mapped[str] = mapped_column(Text, server_default="active")
    state_reason: Mapped[str | None] = mapped_column(Text)
    issued_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # the org's time
    jwt_key: Mapped[str | None] = mapped_column(Text)  # ciphertext of the private key that signs for this user
    renewed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # our time
    renew_at: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True)
    )  # None: only when the org refuses it; of a revoked one: when to see whether its org is back
    session_seconds: Mapped[float | None] = mapped_column(Float)  # how long sessions last, learnt from those that ended
    token_version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))


class Renewal(Base):
    """One attempt to renew a token: written before the call, closed after the pair is stored.

    An attempt left open means that the process died in between; with rotation the stored refresh token may be spent.
    """

    __tablename__ = "renewals"
    __table_args__ = (
        CheckConstraint(
            "outcome IS NULL OR " + one_of("outcome", "renewed", "busy", "revoked", "failed", "unknown"), name="outcome"
        ),
        CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name="ended"),
        Index("ix_renewals_open", "started_at", postgresql_where=text("outcome IS NULL")),
        Index("ix_renewals_ended", "ended_at"),
    )

    id: Mapped[Key]
    connection_id: Mapped[int] = mapped_column(
        ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"), index=True
    )
    fingerprint: Mapped[str] = mapped_column(Text)  # SHA-256 of the refresh token that was sent, first 16 hex digits
    started_at: Mapped[Created]
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    outcome: Mapped[str | None] = mapped_column(Text)
    detail: Mapped[str | None] = mapped_column(Text)


class OAuthState(Base):
    """An authorization that was begun: single use, bound to the user, ten minutes."""

    __tablename__ = "oauth_states"

    state_hash: Mapped[str] = mapped_column(Text, primary_key=True)  # SHA-256 hex: a copied table opens no door
    user_id: Mapped[str] = mapped_column(Text)
    code_verifier: Mapped[str] = mapped_column(Text)  # ciphertext
    redirect_uri: Mapped[str] = mapped_column(Text)
    login_url: Mapped[str] = mapped_column(Text)
    options: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    created_at: Mapped[Created]
    used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Process(Base):
    """A worker, beat or shim process: its last sign of life and its last finished step."""

    __tablename__ = "processes"
    __table_args__ = (CheckConstraint(one_of("role", "worker", "beat", "shim"), name="role"),)

    name: Mapped[str] = mapped_column(Text, primary_key=True)  # role@host:pid
    role: Mapped[str] = mapped_column(Text)
    lanes: Mapped[str] = mapped_column(Text, server_default="")  # space separated
    pid: Mapped[int] = mapped_column(Integer)
    host: Mapped[str] = mapped_column(Text)
    started_at: Mapped[Created]
    seen_at: Mapped[Created]
    last_step_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    steps: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
