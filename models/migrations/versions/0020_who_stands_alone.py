"""actions without a ticket stand alone: no index of lines holds them, so that a create takes less time in each of its states"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

COLUMNS = ["connection_id", "object", "order_key", "ticket"]


def upgrade() -> None:
    """Forward only."""
    in_line = sa.text("ticket <> 0")
    unfinished = sa.text("ticket <> 0 AND state IN ('waiting', 'ready', 'sending', 'in_doubt', 'held')")
    op.create_index("uq_actions_ticket", "actions", COLUMNS, unique=True, schema="sfsync", postgresql_where=in_line)
    op.drop_constraint("uq_actions_connection_id_object_order_key_ticket", "actions", schema="sfsync")
    op.drop_index("ix_actions_line", "actions", schema="sfsync")
    op.create_index("ix_actions_line", "actions", COLUMNS, schema="sfsync", postgresql_where=unfinished)
