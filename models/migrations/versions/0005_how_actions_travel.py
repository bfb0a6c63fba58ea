"""how actions travel: Bulk ingest jobs, idempotency keys, lines that wait for a person"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

DROPPED = ("claimed_while_sent",)
CHECKS = {
    "claimed_while_sent": "CASE state WHEN 'sending' THEN claim_token IS NOT NULL OR ingest_job_id IS NOT NULL"
    " WHEN 'in_doubt' THEN true ELSE claim_token IS NULL END",
    "way": "way IN ('collection', 'upsert', 'bulk', 'idempotency_key', 'conditional')",
    "sent_has_way": "state NOT IN ('sending', 'in_doubt') OR way IS NOT NULL",
    "job_while_bulk": "ingest_job_id IS NULL OR way = 'bulk'",
}
WAY_SO_FAR = """
UPDATE sfsync.actions SET way = CASE WHEN operation IN ('create', 'upsert') AND external_id_field IS NOT NULL
                                     THEN 'upsert' ELSE 'collection' END
 WHERE sent_at IS NOT NULL
"""


def upgrade() -> None:
    """Forward only."""
    op.add_column("action_lines", sa.Column("blocked_by", sa.Uuid(), nullable=True), schema="sfsync")
    op.create_foreign_key(
        op.f("fk_action_lines_blocked_by"),
        "action_lines",
        "actions",
        ["blocked_by"],
        ["id"],
        source_schema="sfsync",
        referent_schema="sfsync",
        ondelete="SET NULL",
    )
    op.create_index(
        "ix_action_lines_blocked_by",
        "action_lines",
        ["blocked_by"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("blocked_by IS NOT NULL"),
    )
    for column in (
        sa.Column("remembering_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("bulk_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("takes_keys", sa.Boolean(), nullable=True),
        sa.Column("takes_keys_until", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("action_queues", column, schema="sfsync")
    op.create_table(
        "ingest_jobs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("connection_id", sa.BigInteger(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("external_id_field", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="ready", nullable=False),
        sa.Column("stage", sa.Text(), server_default="create", nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("claim_token", sa.BigInteger(), nullable=True),
        sa.Column("claim_owner", sa.Text(), nullable=True),
        sa.Column("claim_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "operation IN ('create', 'update', 'upsert', 'delete')", name=op.f("ck_ingest_jobs_operation")
        ),
        sa.CheckConstraint("state IN ('ready', 'done')", name=op.f("ck_ingest_jobs_state")),
        sa.CheckConstraint(
            "stage IN ('create', 'upload', 'close', 'wait', 'lost', 'over')", name=op.f("ck_ingest_jobs_stage")
        ),
        sa.CheckConstraint(
            "stage NOT IN ('upload', 'close', 'wait') OR job_id IS NOT NULL", name=op.f("ck_ingest_jobs_job_known")
        ),
        sa.CheckConstraint("(state = 'done') = (finished_at IS NOT NULL)", name=op.f("ck_ingest_jobs_finished")),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["public.salesforce_oauth_tokens.id"],
            name=op.f("fk_ingest_jobs_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ingest_jobs")),
        sa.UniqueConstraint("job_id", name=op.f("uq_ingest_jobs_job_id")),
        schema="sfsync",
    )
    op.create_index(
        "ix_ingest_jobs_due",
        "ingest_jobs",
        ["connection_id", "object", "due_at"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.add_column("actions", sa.Column("way", sa.Text(), nullable=True), schema="sfsync")
    op.add_column("actions", sa.Column("ingest_job_id", sa.BigInteger(), nullable=True), schema="sfsync")
    op.create_foreign_key(
        op.f("fk_actions_ingest_job_id"),
        "actions",
        "ingest_jobs",
        ["ingest_job_id"],
        ["id"],
        source_schema="sfsync",
        referent_schema="sfsync",
    )
    op.create_index(
        "ix_actions_ingest_job",
        "actions",
        ["ingest_job_id"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state = 'sending' AND ingest_job_id IS NOT NULL"),
    )
    op.execute(WAY_SO_FAR)
    for name in DROPPED:
        op.drop_constraint(op.f(f"ck_actions_{name}"), "actions", schema="sfsync")
    for name, rule in CHECKS.items():
        op.create_check_constraint(op.f(f"ck_actions_{name}"), "actions", rule, schema="sfsync")
