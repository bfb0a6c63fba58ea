"""indexes for what the status page and metrics read: runs and renewals by the time they ended"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    finished = sa.text("finished_at IS NOT NULL")
    op.create_index("ix_runs_finished", "runs", ["finished_at"], schema="sfsync", postgresql_where=finished)
    op.create_index("ix_renewals_ended", "renewals", ["ended_at"], schema="sfsync")
