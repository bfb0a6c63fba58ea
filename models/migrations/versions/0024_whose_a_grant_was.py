"""whose grant a connection was before: what that user may have created without an answer is looked for among his records"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    former = sa.Column("former_salesforce_user_id", sa.Text(), nullable=True)
    changed = sa.Column("user_changed_at", sa.DateTime(timezone=True), nullable=True)
    op.add_column("salesforce_oauth_tokens", former, schema="public")
    op.add_column("salesforce_oauth_tokens", changed, schema="public")
