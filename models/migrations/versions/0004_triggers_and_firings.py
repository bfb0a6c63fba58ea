"""triggers and firings"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    op.create_table(
        "triggers",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("connection_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=True),
        sa.Column("time_zone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("every_seconds", sa.Float(), nullable=True),
        sa.Column("anchor", sa.DateTime(timezone=True), nullable=False),
        sa.Column("workflow_action", sa.Text(), nullable=False),
        sa.Column("work", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("missed", sa.Text(), nullable=False),
        sa.Column("missed_limit", sa.Integer(), nullable=False),
        sa.Column("grace_seconds", sa.Float(), nullable=False),
        sa.Column("overlap", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("next_due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "(type = 'scheduled_trigger')::int = num_nonnulls(cron, every_seconds)",
            name=op.f("ck_triggers_schedule_of_scheduled"),
        ),
        sa.CheckConstraint("missed IN ('skip', 'once', 'all')", name=op.f("ck_triggers_missed")),
        sa.CheckConstraint(
            "next_due_at IS NULL OR (enabled AND type = 'scheduled_trigger')",
            name=op.f("ck_triggers_due_only_when_enabled"),
        ),
        sa.CheckConstraint("overlap IN ('skip', 'queue', 'allow')", name=op.f("ck_triggers_overlap")),
        sa.CheckConstraint("type IN ('manual_trigger', 'scheduled_trigger')", name=op.f("ck_triggers_type")),
        sa.CheckConstraint(
            "workflow_action IN ('execute_service', 'process_data')", name=op.f("ck_triggers_workflow_action")
        ),
        sa.CheckConstraint("every_seconds > 0", name=op.f("ck_triggers_every_seconds")),
        sa.CheckConstraint("missed_limit > 0 AND grace_seconds > 0", name=op.f("ck_triggers_limits")),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["public.salesforce_oauth_tokens.id"],
            name=op.f("fk_triggers_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_triggers")),
        sa.UniqueConstraint("connection_id", "name", name=op.f("uq_triggers_connection_id_name")),
        schema="sfsync",
    )
    op.create_index(
        "ix_triggers_due",
        "triggers",
        ["next_due_at"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("next_due_at IS NOT NULL"),
    )
    op.create_table(
        "firings",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("trigger_id", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column(
            "parameters", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("work", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("missed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("run_ids", postgresql.ARRAY(sa.BigInteger()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("action_ids", postgresql.ARRAY(sa.Uuid()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("look_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("claim_token", sa.BigInteger(), nullable=True),
        sa.Column("claim_owner", sa.Text(), nullable=True),
        sa.Column("claim_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("fired_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(cause = 'schedule') = (due_at IS NOT NULL)", name=op.f("ck_firings_due_by_schedule")),
        sa.CheckConstraint(
            "(state IN ('done', 'failed', 'skipped')) = (finished_at IS NOT NULL)", name=op.f("ck_firings_finished")
        ),
        sa.CheckConstraint("cause IN ('schedule', 'manual')", name=op.f("ck_firings_cause")),
        sa.CheckConstraint(
            "state IN ('waiting', 'ready', 'running', 'done', 'failed', 'skipped')", name=op.f("ck_firings_state")
        ),
        sa.CheckConstraint(
            "state NOT IN ('failed', 'skipped') OR reason IS NOT NULL", name=op.f("ck_firings_refusal_has_reason")
        ),
        sa.ForeignKeyConstraint(
            ["trigger_id"], ["sfsync.triggers.id"], name=op.f("fk_firings_trigger_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_firings")),
        sa.UniqueConstraint("trigger_id", "due_at", name=op.f("uq_firings_trigger_id_due_at")),
        sa.UniqueConstraint("trigger_id", "idempotency_key", name=op.f("uq_firings_trigger_id_idempotency_key")),
        schema="sfsync",
    )
    op.create_index(
        "ix_firings_active",
        "firings",
        ["state", "look_at"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state IN ('waiting', 'ready', 'running')"),
    )
    op.create_index(
        "ix_firings_finished_at",
        "firings",
        ["finished_at"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index("ix_firings_trigger_id_id", "firings", ["trigger_id", "id"], unique=False, schema="sfsync")
    op.create_index(
        "ix_firings_unfinished",
        "firings",
        ["trigger_id", "state"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state IN ('waiting', 'ready', 'running')"),
    )
