"""settled cursors move; children of parents that left are read again"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    op.add_column("mirrors", sa.Column("next_settle_at", sa.DateTime(timezone=True)), schema="sfsync")
    op.add_column(
        "mirrors",
        sa.Column("clock_skew_seconds", sa.Float(), server_default=sa.text("0"), nullable=False),
        schema="sfsync",
    )
    op.add_column("mirrors", sa.Column("route", sa.Text(), server_default="bulk", nullable=False), schema="sfsync")
    op.execute(  # seconds between a cursor, which is the org's time, and now; none for none
        """
        CREATE FUNCTION sfsync.lag(cursor timestamptz, clock_skew_seconds double precision) RETURNS double precision
        LANGUAGE sql VOLATILE STRICT AS
        $$ SELECT greatest(0, extract(epoch FROM clock_timestamp() - cursor) + clock_skew_seconds) $$
        """
    )
    op.create_check_constraint(op.f("ck_mirrors_route"), "mirrors", "route IN ('bulk', 'rest')", schema="sfsync")
    op.create_check_constraint(
        op.f("ck_mirrors_settled_is_not_ahead"), "mirrors", "settled_cursor <= fresh_cursor", schema="sfsync"
    )
    op.execute(  # a mirror that was loaded before: whatever is older than the longest transaction is settled
        "UPDATE sfsync.mirrors SET next_settle_at = clock_timestamp(), settled_cursor = fresh_cursor - interval '15 minutes'"
        " WHERE state = 'live'"
    )
    op.create_index(
        "ix_mirrors_settle_due",
        "mirrors",
        ["next_settle_at"],
        schema="sfsync",
        postgresql_where=sa.text("state = 'live'"),
    )
    op.add_column("runs", sa.Column("window_end", sa.DateTime(timezone=True)), schema="sfsync")
    op.drop_constraint(op.f("ck_runs_kind"), "runs", schema="sfsync")
    op.create_check_constraint(
        op.f("ck_runs_kind"),
        "runs",
        "kind IN ('load', 'refresh', 'settle', 'children', 'verify', 'backfill')",
        schema="sfsync",
    )
    op.create_table(
        "child_reads",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("mirror_id", sa.BigInteger(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=False),
        sa.Column("restored", sa.Boolean(), nullable=False),
        sa.Column("after_run", sa.BigInteger()),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["mirror_id"], ["sfsync.mirrors.id"], name=op.f("fk_child_reads_mirror_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_child_reads")),
        schema="sfsync",
    )
    op.create_index("ix_child_reads_mirror_id_id", "child_reads", ["mirror_id", "id"], schema="sfsync")
