"""callbacks: endpoints, what they are told, secrets; and what retention of actions needs"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def now() -> sa.TextClause:
    """The default of a time at which a row was made."""
    return sa.text("clock_timestamp()")


def upgrade() -> None:
    """Forward only."""
    op.create_index(
        "ix_action_lines_quiet",
        "action_lines",
        ["quiet_until"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("quiet_until IS NOT NULL"),
    )
    op.create_table(
        "callback_secrets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("connection_id", sa.BigInteger(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now(), nullable=False),
        sa.Column("retires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["public.salesforce_oauth_tokens.id"],
            name=op.f("fk_callback_secrets_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callback_secrets")),
        schema="sfsync",
    )
    op.create_index(
        op.f("ix_callback_secrets_connection_id"), "callback_secrets", ["connection_id"], unique=False, schema="sfsync"
    )
    op.create_table(
        "callback_endpoints",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("connection_id", sa.BigInteger(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("next_due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("claim_token", sa.BigInteger(), nullable=True),
        sa.Column("claim_owner", sa.Text(), nullable=True),
        sa.Column("claim_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now(), nullable=False),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_reason IS NULL)", name=op.f("ck_callback_endpoints_disabled")
        ),
        sa.CheckConstraint(
            "num_nulls(claim_token, claim_owner, claim_until) IN (0, 3)", name=op.f("ck_callback_endpoints_claim_whole")
        ),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["public.salesforce_oauth_tokens.id"],
            name=op.f("fk_callback_endpoints_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callback_endpoints")),
        sa.UniqueConstraint("connection_id", "url", name=op.f("uq_callback_endpoints_connection_id_url")),
        schema="sfsync",
    )
    op.create_index(
        "ix_callback_endpoints_due",
        "callback_endpoints",
        ["next_due_at"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("next_due_at IS NOT NULL"),
    )
    op.create_table(
        "callbacks",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Uuid(), server_default=sa.text("pg_catalog.gen_random_uuid()"), nullable=False),
        sa.Column("endpoint_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default="waiting", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=now(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('action.finished', 'action.held', 'connection.revoked', 'run.finished')",
            name=op.f("ck_callbacks_kind"),
        ),
        sa.CheckConstraint("state IN ('waiting', 'delivered', 'failed')", name=op.f("ck_callbacks_state")),
        sa.CheckConstraint("(state = 'waiting') = (finished_at IS NULL)", name=op.f("ck_callbacks_finished")),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["sfsync.callback_endpoints.id"],
            name=op.f("fk_callbacks_endpoint_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callbacks")),
        sa.UniqueConstraint("message_id", name=op.f("uq_callbacks_message_id")),
        schema="sfsync",
    )
    op.create_index(op.f("ix_callbacks_endpoint_id"), "callbacks", ["endpoint_id"], unique=False, schema="sfsync")
    op.create_index(
        "ix_callbacks_due",
        "callbacks",
        ["endpoint_id", "due_at"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        "ix_callbacks_finished",
        "callbacks",
        ["finished_at"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_table(
        "callback_attempts",
        sa.Column("callback_id", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=now(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["callback_id"],
            ["sfsync.callbacks.id"],
            name=op.f("fk_callback_attempts_callback_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("callback_id", "id", name=op.f("pk_callback_attempts")),
        schema="sfsync",
    )
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    connection.execute(Path(__file__).with_suffix(".sql").read_text())
