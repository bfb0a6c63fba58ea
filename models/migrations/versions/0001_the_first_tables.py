"""the first tables"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    op.execute("CREATE SEQUENCE sfsync.read_numbers")
    op.execute("CREATE SEQUENCE sfsync.claim_tokens")
    op.create_table(
        "salesforce_oauth_tokens",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("access_token", sa.Text(), nullable=True),
        sa.Column("refresh_token", sa.Text(), nullable=True),
        sa.Column("scope", sa.Text(), nullable=True),
        sa.Column("organization_id", sa.Text(), nullable=True),
        sa.Column("profile_id", sa.Text(), nullable=True),
        sa.Column("instance_url", sa.Text(), nullable=True),
        sa.Column("username", sa.Text(), nullable=True),
        sa.Column("environment", sa.Text(), server_default="production", nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("grant_type", sa.Text(), nullable=False),
        sa.Column("login_url", sa.Text(), nullable=False),
        sa.Column("salesforce_user_id", sa.Text(), nullable=True),
        sa.Column("schema_name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("token_version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint(
            "grant_type IN ('authorization_code', 'refresh_token', 'client_credentials')",
            name=op.f("ck_salesforce_oauth_tokens_grant_type"),
        ),
        sa.CheckConstraint(
            "state <> 'active' OR access_token IS NOT NULL", name=op.f("ck_salesforce_oauth_tokens_active_has_token")
        ),
        sa.CheckConstraint(
            "state IN ('active', 'revoked', 'disconnected')", name=op.f("ck_salesforce_oauth_tokens_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_salesforce_oauth_tokens")),
        sa.UniqueConstraint("schema_name", name=op.f("uq_salesforce_oauth_tokens_schema_name")),
        sa.UniqueConstraint("user_id", name=op.f("uq_salesforce_oauth_tokens_user_id")),
        schema="public",
    )
    op.create_index(
        op.f("ix_salesforce_oauth_tokens_organization_id"),
        "salesforce_oauth_tokens",
        ["organization_id"],
        unique=False,
        schema="public",
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("user_ids", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "scopes <@ ARRAY['read','write','trigger','admin']::text[]", name=op.f("ck_api_keys_scopes")
        ),
        sa.CheckConstraint("cardinality(scopes) > 0", name=op.f("ck_api_keys_has_scope")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_keys_prefix")),
        schema="sfsync",
    )
    op.create_table(
        "oauth_states",
        sa.Column("state_hash", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("code_verifier", sa.Text(), nullable=False),
        sa.Column("redirect_uri", sa.Text(), nullable=False),
        sa.Column("login_url", sa.Text(), nullable=False),
        sa.Column(
            "options", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("state_hash", name=op.f("pk_oauth_states")),
        schema="sfsync",
    )
    op.create_table(
        "orgs",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("api_used", sa.BigInteger(), nullable=True),
        sa.Column("api_max", sa.BigInteger(), nullable=True),
        sa.Column("api_reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("organization_id", name=op.f("pk_orgs")),
        schema="sfsync",
    )
    op.create_table(
        "processes",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("lanes", sa.Text(), server_default="", nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("last_step_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("steps", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("role IN ('worker', 'beat', 'shim')", name=op.f("ck_processes_role")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_processes")),
        schema="sfsync",
    )
    op.create_table(
        "action_lines",
        sa.Column("connection_id", sa.BigInteger(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("order_key", sa.Text(), nullable=False),
        sa.Column("next_ticket", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("quiet_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["public.salesforce_oauth_tokens.id"],
            name=op.f("fk_action_lines_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("connection_id", "object", "order_key", name=op.f("pk_action_lines")),
        schema="sfsync",
    )
    op.create_table(
        "action_queues",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("connection_id", sa.BigInteger(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("next_due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_served_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["public.salesforce_oauth_tokens.id"],
            name=op.f("fk_action_queues_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_action_queues")),
        sa.UniqueConstraint("connection_id", "object", name=op.f("uq_action_queues_connection_id_object")),
        schema="sfsync",
    )
    op.create_index("ix_action_queues_due", "action_queues", ["next_due_at"], unique=False, schema="sfsync")
    op.create_table(
        "actions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("connection_id", sa.BigInteger(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=True),
        sa.Column("external_id_field", sa.Text(), nullable=True),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("order_key", sa.Text(), nullable=False),
        sa.Column("ticket", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("claim_token", sa.BigInteger(), nullable=True),
        sa.Column("claim_owner", sa.Text(), nullable=True),
        sa.Column("claim_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("doubt_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("remembered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'delivered') = (outcome IS NOT NULL)", name=op.f("ck_actions_delivered_has_outcome")
        ),
        sa.CheckConstraint(
            "(state IN ('delivered', 'rejected', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_actions_finished"),
        ),
        sa.CheckConstraint(
            "operation <> 'upsert' OR external_id_field IS NOT NULL", name=op.f("ck_actions_external_id_named")
        ),
        sa.CheckConstraint("operation IN ('create', 'update', 'upsert', 'delete')", name=op.f("ck_actions_operation")),
        sa.CheckConstraint(
            "operation NOT IN ('update', 'delete') OR record_id IS NOT NULL", name=op.f("ck_actions_record_named")
        ),
        sa.CheckConstraint(
            "state IN ('waiting', 'ready', 'sending', 'in_doubt', 'delivered', 'rejected', 'held', 'cancelled')",
            name=op.f("ck_actions_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('rejected', 'held') OR error IS NOT NULL", name=op.f("ck_actions_refusal_has_error")
        ),
        sa.CheckConstraint(
            "state NOT IN ('sending', 'in_doubt') OR sent_at IS NOT NULL", name=op.f("ck_actions_sent_has_time")
        ),
        sa.CheckConstraint(
            "(external_id_field IS NULL) = (external_id IS NULL)", name=op.f("ck_actions_external_id_whole")
        ),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["public.salesforce_oauth_tokens.id"],
            name=op.f("fk_actions_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_actions")),
        sa.UniqueConstraint("connection_id", "idempotency_key", name=op.f("uq_actions_connection_id_idempotency_key")),
        sa.UniqueConstraint(
            "connection_id",
            "object",
            "order_key",
            "ticket",
            name=op.f("uq_actions_connection_id_object_order_key_ticket"),
        ),
        schema="sfsync",
    )
    op.create_index(
        "ix_actions_line",
        "actions",
        ["connection_id", "object", "order_key", "ticket"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state IN ('waiting', 'ready', 'sending', 'in_doubt', 'held')"),
    )
    op.create_index(
        "ix_actions_ready",
        "actions",
        ["connection_id", "object", sa.literal_column("priority DESC"), "created_at"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index(
        "ix_actions_sent",
        "actions",
        ["connection_id", "object", "claim_until"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state IN ('sending', 'in_doubt')"),
    )
    op.create_index(
        "ix_actions_unremembered",
        "actions",
        ["connection_id", "object", "finished_at"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state = 'delivered' AND remembered_at IS NULL"),
    )
    op.create_index(
        "ix_actions_made",
        "actions",
        ["connection_id", "record_id"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("operation IN ('create', 'upsert') AND record_id IS NOT NULL"),
    )
    op.create_table(
        "object_describes",
        sa.Column("connection_id", sa.BigInteger(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("describe", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "fetched_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["public.salesforce_oauth_tokens.id"],
            name=op.f("fk_object_describes_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("connection_id", "object", name=op.f("pk_object_describes")),
        schema="sfsync",
    )
    op.create_table(
        "mirrors",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("connection_id", sa.BigInteger(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("fields", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("row_filter", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="new", nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("describe", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("describe_modified", sa.Text(), nullable=True),
        sa.Column("described_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("skipped_fields", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("stamp_field", sa.Text(), nullable=True),
        sa.Column("fresh_cursor", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_cursor", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refresh_seconds", sa.Float(), server_default=sa.text("60"), nullable=False),
        sa.Column("next_refresh_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refreshed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("state <> 'live' OR fresh_cursor IS NOT NULL", name=op.f("ck_mirrors_live_has_cursor")),
        sa.CheckConstraint("state IN ('new', 'loading', 'live', 'paused')", name=op.f("ck_mirrors_state")),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["public.salesforce_oauth_tokens.id"],
            name=op.f("fk_mirrors_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mirrors")),
        sa.UniqueConstraint("connection_id", "object", name=op.f("uq_mirrors_connection_id_object")),
        schema="sfsync",
    )
    op.create_index(
        "ix_mirrors_due",
        "mirrors",
        ["next_refresh_at"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state = 'live'"),
    )
    op.create_table(
        "renewals",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("connection_id", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "outcome IS NULL OR outcome IN ('renewed', 'busy', 'revoked', 'failed', 'unknown')",
            name=op.f("ck_renewals_outcome"),
        ),
        sa.CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name=op.f("ck_renewals_ended")),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["public.salesforce_oauth_tokens.id"],
            name=op.f("fk_renewals_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_renewals")),
        schema="sfsync",
    )
    op.create_index(op.f("ix_renewals_connection_id"), "renewals", ["connection_id"], unique=False, schema="sfsync")
    op.create_table(
        "drift",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("mirror_id", sa.BigInteger(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["mirror_id"], ["sfsync.mirrors.id"], name=op.f("fk_drift_mirror_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drift")),
        schema="sfsync",
    )
    op.create_index(op.f("ix_drift_mirror_id"), "drift", ["mirror_id"], unique=False, schema="sfsync")
    op.create_table(
        "runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("mirror_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="ready", nullable=False),
        sa.Column("stage", sa.Text(), server_default="begin", nullable=False),
        sa.Column(
            "options", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("claim_token", sa.BigInteger(), nullable=True),
        sa.Column("claim_owner", sa.Text(), nullable=True),
        sa.Column("claim_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("read_number", sa.BigInteger(), nullable=True),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("read_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("columns", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("staging", sa.Text(), nullable=True),
        sa.Column("rows_expected", sa.BigInteger(), nullable=True),
        sa.Column("rows_read", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("rows_changed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("rows_deleted", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("rows_rejected", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("nul_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("calls", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state IN ('done', 'failed')) = (finished_at IS NOT NULL)", name=op.f("ck_runs_finished")),
        sa.CheckConstraint("kind IN ('load', 'refresh', 'verify')", name=op.f("ck_runs_kind")),
        sa.CheckConstraint("state IN ('ready', 'done', 'failed', 'parked')", name=op.f("ck_runs_state")),
        sa.ForeignKeyConstraint(
            ["mirror_id"], ["sfsync.mirrors.id"], name=op.f("fk_runs_mirror_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        schema="sfsync",
    )
    op.create_index(
        "ix_runs_due",
        "runs",
        ["lane", "due_at"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index("ix_runs_mirror_id_id", "runs", ["mirror_id", "id"], unique=False, schema="sfsync")
    op.create_index(
        "uq_runs_active",
        "runs",
        ["mirror_id", "kind"],
        unique=True,
        schema="sfsync",
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_table(
        "rejects",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("mirror_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("record", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["mirror_id"], ["sfsync.mirrors.id"], name=op.f("fk_rejects_mirror_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["sfsync.runs.id"], name=op.f("fk_rejects_run_id"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rejects")),
        schema="sfsync",
    )
    op.create_index(op.f("ix_rejects_mirror_id"), "rejects", ["mirror_id"], unique=False, schema="sfsync")
    op.create_table(
        "run_pages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("locator", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="ready", nullable=False),
        sa.Column("claim_token", sa.BigInteger(), nullable=True),
        sa.Column("claim_owner", sa.Text(), nullable=True),
        sa.Column("claim_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("loaded_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'loaded') = (loaded_at IS NOT NULL)", name=op.f("ck_run_pages_loaded")),
        sa.CheckConstraint("state IN ('ready', 'loaded')", name=op.f("ck_run_pages_state")),
        sa.ForeignKeyConstraint(["run_id"], ["sfsync.runs.id"], name=op.f("fk_run_pages_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_pages")),
        sa.UniqueConstraint("run_id", "number", name=op.f("uq_run_pages_run_id_number")),
        schema="sfsync",
    )
    op.create_index(
        "ix_run_pages_ready",
        "run_pages",
        ["run_id", "number"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_table(
        "verifications",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("mirror_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("depth", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("fields", sa.Integer(), nullable=False),
        sa.Column("differences", sa.BigInteger(), nullable=False),
        sa.Column("missing", sa.BigInteger(), nullable=False),
        sa.Column("surplus", sa.BigInteger(), nullable=False),
        sa.Column("moved", sa.BigInteger(), nullable=False),
        sa.Column("repaired", sa.BigInteger(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column(
            "details", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.CheckConstraint("depth IN ('full', 'quick')", name=op.f("ck_verifications_depth")),
        sa.ForeignKeyConstraint(
            ["mirror_id"], ["sfsync.mirrors.id"], name=op.f("fk_verifications_mirror_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["sfsync.runs.id"], name=op.f("fk_verifications_run_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verifications")),
        schema="sfsync",
    )
    op.create_index(op.f("ix_verifications_mirror_id"), "verifications", ["mirror_id"], unique=False, schema="sfsync")
