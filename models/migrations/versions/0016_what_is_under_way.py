"""what is under way, by state: a look for what is in doubt must not read all that is in Bulk jobs"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    op.create_index(
        "ix_actions_under_way",
        "actions",
        ["connection_id", "object", "state", "claim_until"],
        unique=False,
        schema="sfsync",
        postgresql_where=sa.text("state IN ('sending', 'in_doubt')"),
    )
    op.drop_index("ix_actions_sent", table_name="actions", schema="sfsync")
