"""only idempotency keys that are given are in the index of keys: an action without one takes less time in each of its states"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

GIVEN = " WHERE idempotency_key IS NOT NULL"


def upgrade() -> None:
    """Forward only."""
    op.create_index(
        "uq_actions_idempotency_key",
        "actions",
        ["connection_id", "idempotency_key"],
        unique=True,
        schema="sfsync",
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.drop_constraint("uq_actions_connection_id_idempotency_key", "actions", schema="sfsync")
    door = "SELECT pg_get_functiondef('sfsync.enqueue_actions(text, jsonb)'::regprocedure)"
    (definition,) = op.get_bind().exec_driver_sql(door).one()
    whole, partial = (f"ON CONFLICT (connection_id, idempotency_key){where} DO NOTHING" for where in ("", GIVEN))
    assert definition.count(whole) == 1
    op.get_bind().exec_driver_sql(definition.replace(whole, partial).replace("%", "%%"))
