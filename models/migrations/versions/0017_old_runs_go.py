"""what refers to a run is found by it, so that old runs can go"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    for table in ("rejects", "verifications"):
        op.create_index(op.f(f"ix_{table}_run_id"), table, ["run_id"], unique=False, schema="sfsync")
