"""indexes for what monitoring reads: runs that are open, actions by the time they finished"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    is_open = sa.text("state IN ('ready', 'parked')")
    op.create_index("ix_runs_open", "runs", ["mirror_id"], schema="sfsync", postgresql_where=is_open)
    finished = sa.text("finished_at IS NOT NULL")
    op.create_index("ix_actions_finished", "actions", ["finished_at"], schema="sfsync", postgresql_where=finished)
