"""old verifications and syncs are found by an index, and so is whether a newer one is there"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only."""
    op.drop_index(op.f("ix_verifications_mirror_id"), "verifications", schema="sfsync")
    op.create_index("ix_verifications_newest", "verifications", ["mirror_id", "depth", "id"], schema="sfsync")
    op.create_index("ix_verifications_finished_at", "verifications", ["finished_at"], schema="sfsync")
    op.drop_index(op.f("ix_syncs_connection_id"), "syncs", schema="sfsync")
    op.create_index("ix_syncs_newest", "syncs", ["connection_id", "created_at"], schema="sfsync")
    op.create_index("ix_syncs_created_at", "syncs", ["created_at"], schema="sfsync")
