"""events of actions are written once for each statement, not for each row: that took longer than the outcomes themselves"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# The plan of a trigger's statement is kept, and made when a table of transitions may hold a single row: without nested
# loops it is good for thousands, too.
TRIGGER = """
DROP TRIGGER tell_action ON sfsync.actions;
DROP FUNCTION sfsync.tell_action();

CREATE FUNCTION sfsync.tell_actions() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
BEGIN
  INSERT INTO sfsync.events (connection_id, kind, data)
  SELECT n.connection_id, 'action', jsonb_build_object(
         'id', n.id, 'object', n.object, 'operation', n.operation, 'state', n.state,
         'record_id', n.record_id, 'error', n.error)
    FROM now_actions AS n JOIN former_actions AS f ON f.id = n.id
   WHERE f.state <> n.state
     AND (n.state NOT IN ('waiting', 'ready', 'sending') OR f.state NOT IN ('waiting', 'ready', 'sending', 'in_doubt'));
  RETURN NULL;
END $$;

CREATE TRIGGER tell_actions AFTER UPDATE ON sfsync.actions REFERENCING OLD TABLE AS former_actions NEW TABLE AS now_actions
  FOR EACH STATEMENT EXECUTE FUNCTION sfsync.tell_actions();
"""


def upgrade() -> None:
    """Forward only."""
    op.execute(TRIGGER)
