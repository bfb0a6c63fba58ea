"""settle reads share calls: what one costs is measured, as of refreshes"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    calls = sa.Column("settle_calls", sa.Float(), server_default=sa.text("1"), nullable=False)
    op.add_column("mirrors", calls, schema="sfsync")
