"""an index by which old Bulk ingest jobs are forgotten, and with them a connection"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    op.drop_index("ix_actions_ingest_job", "actions", schema="sfsync")
    op.create_index(
        "ix_actions_ingest_job",
        "actions",
        ["ingest_job_id"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("ingest_job_id IS NOT NULL"),
    )
