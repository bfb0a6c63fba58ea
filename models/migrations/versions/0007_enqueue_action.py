"""enqueueing by SQL: functions for callers inside Postgres, and actions that a worker has still to check"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    op.add_column(
        "actions", sa.Column("checked", sa.Boolean(), server_default=sa.text("true"), nullable=False), schema="sfsync"
    )
    op.create_index(
        "ix_actions_unchecked",
        "actions",
        ["connection_id", "object", "created_at"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("NOT checked"),
    )
    op.drop_constraint(op.f("ck_actions_counts"), "actions", schema="sfsync")
    for name, rule in {
        "counts": "attempts >= 0 AND (ticket >= 0 OR NOT checked)",
        "checked_before_sent": "checked OR state IN ('waiting', 'held', 'rejected', 'cancelled')",
    }.items():
        op.create_check_constraint(op.f(f"ck_actions_{name}"), "actions", rule, schema="sfsync")
    # Past SQLAlchemy, which would take every % for a parameter.
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    connection.execute(Path(__file__).with_suffix(".sql").read_text())
