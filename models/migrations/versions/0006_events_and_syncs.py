"""events of actions and runs, written by triggers; syncs: runs that were asked for together"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A trigger, because a state changes at many places and no place may be forgotten. WHEN is tested before the function is
# called: an action's way from ready to sending costs nothing.
TRIGGERS = """
CREATE FUNCTION sfsync.tell_action() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO sfsync.events (connection_id, kind, data)
  VALUES (NEW.connection_id, 'action', jsonb_build_object(
      'id', NEW.id, 'object', NEW.object, 'operation', NEW.operation, 'state', NEW.state,
      'record_id', NEW.record_id, 'error', NEW.error));
  RETURN NULL;
END $$;

CREATE TRIGGER tell_action AFTER UPDATE OF state ON sfsync.actions FOR EACH ROW
  WHEN (OLD.state IS DISTINCT FROM NEW.state
        AND (NEW.state NOT IN ('waiting', 'ready', 'sending') OR OLD.state NOT IN ('waiting', 'ready', 'sending', 'in_doubt')))
  EXECUTE FUNCTION sfsync.tell_action();

CREATE FUNCTION sfsync.tell_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO sfsync.events (connection_id, kind, data)
  SELECT m.connection_id, 'run', jsonb_build_object(
      'id', NEW.id, 'object', m.object, 'kind', NEW.kind, 'cause', NEW.cause, 'state', NEW.state,
      'rows_read', NEW.rows_read, 'rows_changed', NEW.rows_changed, 'rows_deleted', NEW.rows_deleted, 'error', NEW.error)
    FROM sfsync.mirrors m WHERE m.id = NEW.mirror_id;
  RETURN NULL;
END $$;

CREATE TRIGGER tell_run_begun AFTER INSERT ON sfsync.runs FOR EACH ROW
  WHEN (NEW.cause <> 'timetable' OR NEW.kind <> 'refresh')
  EXECUTE FUNCTION sfsync.tell_run();

CREATE TRIGGER tell_run AFTER UPDATE OF state ON sfsync.runs FOR EACH ROW
  WHEN (OLD.state IS DISTINCT FROM NEW.state
        AND (NEW.cause <> 'timetable' OR NEW.kind <> 'refresh' OR NEW.state <> 'done' OR NEW.rows_changed + NEW.rows_deleted > 0))
  EXECUTE FUNCTION sfsync.tell_run();
"""


def upgrade() -> None:
    """Forward only."""
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("connection_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.CheckConstraint("kind IN ('action', 'run')", name=op.f("ck_events_kind")),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["public.salesforce_oauth_tokens.id"],
            name=op.f("fk_events_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        schema="sfsync",
    )
    op.create_index("ix_events_connection_id_id", "events", ["connection_id", "id"], schema="sfsync")
    op.create_table(
        "syncs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("connection_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["public.salesforce_oauth_tokens.id"],
            name=op.f("fk_syncs_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_syncs")),
        schema="sfsync",
    )
    op.create_index(op.f("ix_syncs_connection_id"), "syncs", ["connection_id"], schema="sfsync")
    op.create_table(
        "sync_runs",
        sa.Column("sync_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sync_id"], ["sfsync.syncs.id"], name=op.f("fk_sync_runs_sync_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["sfsync.runs.id"], name=op.f("fk_sync_runs_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sync_id", "run_id", name=op.f("pk_sync_runs")),
        schema="sfsync",
    )
    op.create_index(op.f("ix_sync_runs_run_id"), "sync_runs", ["run_id"], schema="sfsync")
    op.execute(TRIGGERS)
