"""the budget of each org: permits, usage, slots; the pace of mirrors"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    empty = sa.text("'{}'::jsonb")
    of_orgs: tuple[sa.Column[Any], ...] = (
        sa.Column("permits", postgresql.JSONB(), server_default=empty, nullable=False),
        sa.Column("reserve_left", sa.BigInteger(), nullable=True),
        sa.Column("blocked_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("limits", postgresql.JSONB(), server_default=empty, nullable=False),
        sa.Column("limits_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("forecast", postgresql.JSONB(), server_default=empty, nullable=False),
    )
    of_mirrors: tuple[sa.Column[Any], ...] = (
        sa.Column("effective_seconds", sa.Float(), nullable=True),
        sa.Column("effective_reason", sa.Text(), nullable=True),
        sa.Column("change_rate", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("rated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refresh_calls", sa.Float(), server_default=sa.text("1"), nullable=False),
    )
    for table, columns in (("orgs", of_orgs), ("mirrors", of_mirrors)):
        for column in columns:
            op.add_column(table, column, schema="sfsync")
    counters = ("calls", "query_jobs", "ingest_jobs", "result_bytes", "ingest_rows")
    op.create_table(
        "usage",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False) for name in counters),
        sa.PrimaryKeyConstraint("organization_id", "hour", "object", "lane", "cause", name=op.f("pk_usage")),
        schema="sfsync",
    )
    op.create_index("ix_usage_hour", "usage", ["hour"], schema="sfsync")
    op.create_table(
        "org_slots",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "process", name=op.f("pk_org_slots")),
        schema="sfsync",
    )
