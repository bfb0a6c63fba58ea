"""tables in parts: where the columns of a wide object are"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    op.add_column(
        "mirrors",
        sa.Column("layout", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        schema="sfsync",
    )
