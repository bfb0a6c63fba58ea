"""drift and audit: lost fields and objects, back-fills, verifications by themselves"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
COLUMNS = {
    "mirrors": (
        sa.Column("lost_fields", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("unfilled_fields", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("unfilled_number", sa.BigInteger(), nullable=True),
        sa.Column("columns", sa.ARRAY(sa.Text()), nullable=True),
        sa.Column("lost_since", INSTANT, nullable=True),
        sa.Column("audit_seconds", sa.Float(), nullable=True),
        sa.Column("next_audit_at", INSTANT, nullable=True),
        sa.Column("has_rows", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    ),
    "verifications": (
        sa.Column("calculated", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("rejected", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("nul_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cause", sa.Text(), server_default="manual", nullable=False),
    ),
}


def upgrade() -> None:
    """Forward only."""
    for table, columns in COLUMNS.items():
        for column in columns:
            op.add_column(table, column, schema="sfsync")
    op.drop_constraint(op.f("ck_runs_kind"), "runs", schema="sfsync")
    op.create_check_constraint(
        op.f("ck_runs_kind"), "runs", "kind IN ('load', 'refresh', 'verify', 'backfill')", schema="sfsync"
    )
    op.drop_constraint(op.f("ck_verifications_depth"), "verifications", schema="sfsync")
    op.create_check_constraint(
        op.f("ck_verifications_depth"), "verifications", "depth IN ('full', 'sample', 'quick')", schema="sfsync"
    )
