-- An action that has ended or is held tells its caller, whoever ended it: in the transaction that did, so that nothing is told
-- that did not happen and nothing that happened is left untold.
CREATE FUNCTION sfsync.enqueue_callback(connection bigint, url text, kind text, payload jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    endpoint bigint;
    made bigint;
BEGIN
    INSERT INTO sfsync.callback_endpoints AS e (connection_id, url, next_due_at) VALUES (connection, enqueue_callback.url, clock_timestamp())
        ON CONFLICT (connection_id, url) DO NOTHING;
    SELECT e.id INTO endpoint FROM sfsync.callback_endpoints AS e
     WHERE e.connection_id = connection AND e.url = enqueue_callback.url;
    INSERT INTO sfsync.callbacks (endpoint_id, kind, payload) VALUES (endpoint, enqueue_callback.kind, enqueue_callback.payload)
        RETURNING id INTO made;
    -- Written only when it sleeps: the endpoint's row must not be what thousands of outcomes wait for.
    UPDATE sfsync.callback_endpoints AS e SET next_due_at = clock_timestamp()
     WHERE e.id = endpoint AND e.next_due_at IS NULL AND e.disabled_at IS NULL;
    RETURN made;
END $$;

CREATE FUNCTION sfsync.tell_of_action() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM sfsync.enqueue_callback(
        NEW.connection_id, NEW.callback_url, CASE NEW.state WHEN 'held' THEN 'action.held' ELSE 'action.finished' END,
        jsonb_build_object('id', NEW.id, 'state', NEW.state, 'object', NEW.object, 'operation', NEW.operation,
                           'record_id', NEW.record_id, 'idempotency_key', NEW.idempotency_key, 'attempts', NEW.attempts,
                           'outcome', NEW.outcome, 'error', NEW.error, 'created_at', NEW.created_at,
                           'finished_at', NEW.finished_at,
                           'user_id', (SELECT c.user_id FROM public.salesforce_oauth_tokens AS c WHERE c.id = NEW.connection_id)));
    RETURN NULL;
END $$;

CREATE TRIGGER tell_of_action AFTER UPDATE OF state ON sfsync.actions FOR EACH ROW
WHEN (NEW.callback_url IS NOT NULL AND NEW.state IS DISTINCT FROM OLD.state
      AND NEW.state IN ('delivered', 'rejected', 'conflict', 'held', 'cancelled'))
EXECUTE FUNCTION sfsync.tell_of_action();

REVOKE ALL ON FUNCTION sfsync.enqueue_callback, sfsync.tell_of_action FROM PUBLIC;
