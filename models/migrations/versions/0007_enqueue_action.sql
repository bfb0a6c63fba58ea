-- The door for callers inside Postgres: sfsync.enqueue_action and sfsync.enqueue_actions, in the caller's own transaction.
--
-- What SQL can tell is checked here; what needs the org's describe is checked by a worker before it sends (`checked`).
-- Tickets and the queue's hint are taken when the caller commits, by a deferred trigger: a transaction that stays open for
-- long keeps nobody from a record's line, and the order of a record's actions is the order of commit.

CREATE SEQUENCE sfsync.arrival_numbers;

CREATE TABLE sfsync.action_arrivals (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_action_arrivals PRIMARY KEY,
    xact bigint NOT NULL,
    action_ids uuid[] NOT NULL
);

-- The same text for equal values: keys sorted, no spaces, 1.50 as 1.5. `worker.actions.exact.dumps(canonical=True)` makes it, too.
CREATE FUNCTION sfsync.canonical_json(value jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    CASE jsonb_typeof(value)
    WHEN 'object' THEN
        RETURN (SELECT '{' || coalesce(string_agg(to_jsonb(m.key)::text || ':' || sfsync.canonical_json(m.value), ','
                                                  ORDER BY m.key COLLATE "C"), '') || '}'
                  FROM jsonb_each(value) AS m);
    WHEN 'array' THEN
        RETURN (SELECT '[' || coalesce(string_agg(sfsync.canonical_json(m.value), ',' ORDER BY m.ordinality), '') || ']'
                  FROM jsonb_array_elements(value) WITH ORDINALITY AS m);
    WHEN 'number' THEN RETURN trim_scale((value #>> '{}')::numeric)::text;
    ELSE RETURN coalesce(value::text, 'null');
    END CASE;
END $$;

-- A record id in its 18-character form; null for what is none. See worker/salesforce/ids.py.
CREATE FUNCTION sfsync.record_id_18(record_id text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    alphabet CONSTANT text := 'ABCDEFGHIJKLMNOPQRSTUVWXYZ012345';
    short text := left(record_id, 15);
    tail text := '';
    bits int;
BEGIN
    IF record_id IS NULL OR record_id !~ '^[A-Za-z0-9]{15}([A-Za-z0-9]{3})?$' THEN
        RETURN NULL;
    END IF;
    IF length(record_id) = 18 AND record_id IN (upper(record_id), lower(record_id)) THEN  -- it may have lost its case
        SELECT string_agg(CASE WHEN (strpos(alphabet, upper(substr(record_id, 16 + (place - 1) / 5, 1))) - 1
                                     >> ((place - 1) % 5)) & 1 = 1
                               THEN upper(substr(record_id, place, 1)) ELSE lower(substr(record_id, place, 1)) END, ''
                          ORDER BY place)
          INTO short FROM generate_series(1, 15) AS place;
    END IF;
    FOR part IN 0..2 LOOP
        SELECT sum(CASE WHEN substr(short, part * 5 + bit + 1, 1) ~ '[A-Z]' THEN 1 << bit ELSE 0 END)
          INTO bits FROM generate_series(0, 4) AS bit;
        tail := tail || substr(alphabet, bits + 1, 1);
    END LOOP;
    IF length(record_id) = 18 AND tail <> upper(right(record_id, 3)) THEN
        RETURN record_id;  -- the org is the authority on its ids
    END IF;
    RETURN CASE WHEN length(record_id) = 18 AND left(record_id, 15) = short AND right(record_id, 3) = tail THEN record_id
                ELSE short || tail END;
END $$;

-- The order key of an action's line. See worker/actions/intent.py.
CREATE FUNCTION sfsync.line_of(action_id uuid, action jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT coalesce('key:' || (action ->> 'order_key'),
                sfsync.record_id_18(action ->> 'record_id'),
                regexp_replace(translate((action ->> 'external_id_field') || ':' || (action ->> 'external_id'),
                                         'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz'),
                               '[\u00C0-\u058F\u10A0-\u10FF\u1C80-\u1CBF\u1E00-\u214F\u2C00-\u2D2F\uA640-\uA7FF\uAB30-\uABBF\uFB00-\uFB17\uFF21-\uFF5A\U00010400-\U0001E943]',
                               '?', 'g'),
                replace(action_id::text, '-', ''))
$$;

-- SHA-256 of what is asked for, as worker/actions/intent.py makes it: one key is one action, whichever door it came through.
CREATE FUNCTION sfsync.content_hash(action jsonb) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT sha256(convert_to(sfsync.canonical_json(
    jsonb_build_array(lower(action ->> 'object'), action ->> 'operation', sfsync.record_id_18(action ->> 'record_id'),
                      action ->> 'external_id_field', action ->> 'external_id', coalesce(action -> 'fields', '{}'),
                      action ->> 'order_key')
    || CASE WHEN asked.options = '{}' THEN '[]'::jsonb ELSE jsonb_build_array(asked.options) END), 'UTF8'))
  FROM (SELECT jsonb_strip_nulls(jsonb_build_object(
                   'priority', nullif((action ->> 'priority')::int, 0),
                   'after_failure', nullif(action ->> 'after_failure', 'go_on'),
                   'mergeable', nullif((action ->> 'mergeable')::boolean, false),
                   'if_unmodified_since', to_char((action ->> 'if_unmodified_since')::timestamptz AT TIME ZONE 'UTC',
                                                  'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
                   'parents', nullif(action -> 'parents', '{}'),
                   'callback_url', action ->> 'callback_url')) AS options) AS asked
$$;

-- Everything that is wrong with the form of one action; null when nothing is.
CREATE FUNCTION sfsync.action_faults(action jsonb) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    known CONSTANT jsonb := '{"object": "string", "operation": "string", "fields": "object", "record_id": "string",
        "external_id_field": "string", "external_id": "string", "idempotency_key": "string", "order_key": "string",
        "priority": "number", "after_failure": "string", "mergeable": "boolean", "if_unmodified_since": "string",
        "parents": "object", "callback_url": "string"}';
    operation text := action ->> 'operation';
    wrong text[];
BEGIN
    IF jsonb_typeof(action) <> 'object' THEN
        RETURN 'it is no JSON object';
    END IF;
    SELECT array_agg(CASE WHEN known ? m.key THEN format('%s is a JSON %s', m.key, known ->> m.key)
                          ELSE format('%s is no member of an action', m.key) END ORDER BY m.key)
      INTO wrong FROM jsonb_each(action) AS m WHERE jsonb_typeof(m.value) IS DISTINCT FROM known ->> m.key;
    IF wrong IS NOT NULL THEN
        RETURN array_to_string(wrong, '; ');
    END IF;
    wrong := ARRAY[
        CASE WHEN operation IS NULL OR operation NOT IN ('create', 'update', 'upsert', 'delete')
             THEN 'operation is create, update, upsert or delete' END,
        CASE WHEN coalesce(action ->> 'object' !~ '^[A-Za-z][A-Za-z0-9_]*$', true) THEN 'object is no API name' END,
        CASE WHEN (action ->> 'record_id' IS NULL) = (operation IN ('update', 'delete'))
             THEN 'an update or delete needs a record_id; a create or upsert has none' END,
        CASE WHEN action ->> 'record_id' IS NOT NULL AND sfsync.record_id_18(action ->> 'record_id') IS NULL
             THEN format('%s is no record id', action ->> 'record_id') END,
        CASE WHEN (coalesce(action ->> 'external_id', '') = '' OR action ->> 'external_id_field' IS NULL) = (operation = 'upsert')
                  OR (operation <> 'upsert' AND num_nonnulls(action ->> 'external_id', action ->> 'external_id_field') > 0)
             THEN 'an upsert needs external_id_field and external_id; nothing else has them' END,
        CASE WHEN action ->> 'external_id_field' !~ '^[A-Za-z][A-Za-z0-9_]*$' THEN 'external_id_field is no API name' END,
        CASE WHEN operation = 'delete' AND coalesce(action -> 'fields', '{}') || coalesce(action -> 'parents', '{}') <> '{}'
             THEN 'a delete has no fields' END,
        CASE WHEN length(action ->> 'idempotency_key') NOT BETWEEN 1 AND 255
                  OR action ->> 'idempotency_key' ~ '[\u0001-\u001F\u007F-\u009F]'
             THEN 'an idempotency_key has 1 to 255 printable characters' END,
        CASE WHEN length(action ->> 'order_key') NOT BETWEEN 1 AND 255 THEN 'an order_key has 1 to 255 characters' END,
        CASE WHEN (action -> 'priority')::numeric NOT BETWEEN -32767 AND 32767
                  OR (action -> 'priority')::numeric <> trunc((action -> 'priority')::numeric)
             THEN 'a priority is a whole number from -32767 to 32767' END,
        CASE WHEN action ->> 'after_failure' NOT IN ('go_on', 'wait') THEN 'after_failure is go_on or wait' END,
        CASE WHEN (action -> 'mergeable')::boolean AND (operation <> 'update' OR action ->> 'if_unmodified_since' IS NOT NULL)
             THEN 'only an update without if_unmodified_since can be mergeable' END,
        CASE WHEN action ->> 'if_unmodified_since' IS NOT NULL AND operation NOT IN ('update', 'delete')
             THEN 'if_unmodified_since is for updates and deletes' END,
        CASE WHEN NOT pg_input_is_valid(action ->> 'if_unmodified_since', 'timestamptz') THEN 'if_unmodified_since is no time' END,
        CASE WHEN EXISTS (SELECT 1 FROM jsonb_each(action -> 'parents') AS m
                           WHERE jsonb_typeof(m.value) <> 'string' OR m.key !~ '^[A-Za-z][A-Za-z0-9_]*$'
                              OR EXISTS (SELECT 1 FROM jsonb_object_keys(action -> 'fields') AS name
                                          WHERE lower(name) = lower(m.key)))
             THEN 'parents: each is a field that is not among the fields, with an action''s id or idempotency key' END,
        CASE WHEN action ->> 'callback_url' !~ '^https?://[^/@?#\s\\]+([/?][^#\s\\]*)?$' OR length(action ->> 'callback_url') > 2000
             THEN 'callback_url is an absolute http or https URL without user name or fragment' END];
    RETURN nullif(array_to_string(array_remove(wrong, NULL), '; '), '');
END $$;

CREATE FUNCTION sfsync.settle_arrivals() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    arrived uuid[];
BEGIN
    WITH gone AS (DELETE FROM sfsync.action_arrivals WHERE xact = pg_current_xact_id()::text::bigint RETURNING action_ids)
    SELECT array_agg(one) INTO arrived FROM gone, unnest(gone.action_ids) AS one;
    IF arrived IS NULL THEN  -- another row of this transaction has settled all of them
        RETURN NULL;
    END IF;
    WITH counted AS MATERIALIZED (
        SELECT connection_id, object, order_key, count(*) AS count FROM sfsync.actions
         WHERE id = ANY (arrived) AND ticket < 0 GROUP BY connection_id, object, order_key
    ), taken AS (
        INSERT INTO sfsync.action_lines AS l (connection_id, object, order_key, next_ticket)
        SELECT connection_id, object, order_key, 1 + count FROM counted ORDER BY connection_id, object, order_key
            ON CONFLICT (connection_id, object, order_key) DO UPDATE SET next_ticket = l.next_ticket + EXCLUDED.next_ticket - 1
        RETURNING l.connection_id, l.object, l.order_key, l.next_ticket
    ), numbered AS (
        SELECT a.id, t.next_ticket - c.count - 1
                     + row_number() OVER (PARTITION BY a.connection_id, a.object, a.order_key ORDER BY a.ticket DESC) AS ticket
          FROM sfsync.actions AS a
          JOIN taken AS t ON (t.connection_id, t.object, t.order_key) = (a.connection_id, a.object, a.order_key)
          JOIN counted AS c ON (c.connection_id, c.object, c.order_key) = (a.connection_id, a.object, a.order_key)
         WHERE a.id = ANY (arrived) AND a.ticket < 0
    )
    UPDATE sfsync.actions AS a SET ticket = n.ticket FROM numbered AS n WHERE a.id = n.id;
    -- Nobody can put a queue to sleep before we commit; it is written only when it sleeps (as store.AWAKE and AWAKEN).
    PERFORM 1 FROM sfsync.action_queues AS q
      WHERE (q.connection_id, q.object) IN (SELECT a.connection_id, a.object FROM sfsync.actions AS a WHERE a.id = ANY (arrived))
        AND q.next_due_at <= clock_timestamp() ORDER BY q.id FOR SHARE;
    INSERT INTO sfsync.action_queues AS q (connection_id, object, next_due_at)
    SELECT a.connection_id, a.object, clock_timestamp()
      FROM (SELECT DISTINCT connection_id, object FROM sfsync.actions WHERE id = ANY (arrived)) AS a
     WHERE NOT EXISTS (SELECT 1 FROM sfsync.action_queues AS b WHERE b.connection_id = a.connection_id AND b.object = a.object
                          AND b.next_due_at <= clock_timestamp())
     ORDER BY 1, 2
        ON CONFLICT (connection_id, object) DO UPDATE SET next_due_at = least(q.next_due_at, EXCLUDED.next_due_at);
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER settle_arrivals AFTER INSERT ON sfsync.action_arrivals
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sfsync.settle_arrivals();

CREATE TYPE sfsync.asked_action AS (
    place int, id uuid, object text, key text, content_hash bytea, order_key text, alone boolean, document jsonb
);

CREATE FUNCTION sfsync.enqueue_actions(user_id text, actions jsonb)
RETURNS TABLE (place int, action_id uuid, repeated boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    connection bigint;
    asked sfsync.asked_action[];
    made uuid[];
    wrong text;
    reused record;
BEGIN
    SELECT c.id INTO connection FROM public.salesforce_oauth_tokens AS c
     WHERE c.user_id = enqueue_actions.user_id AND c.state IN ('active', 'revoked');  -- revoked: they wait for a person
    IF connection IS NULL THEN
        RAISE EXCEPTION 'sfsync: % is not connected', coalesce(enqueue_actions.user_id, 'nobody')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Connect the user first: sfsync connect --user-id …';
    END IF;
    IF jsonb_typeof(actions) IS DISTINCT FROM 'array' OR jsonb_array_length(actions) NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'sfsync: a JSON array of 1 to 10,000 actions is wanted' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- A member that is null is as good as none.
    SELECT jsonb_agg(coalesce((SELECT jsonb_object_agg(m.key, m.value) FROM jsonb_each(e.value) AS m WHERE m.value <> 'null'), '{}')
                     ORDER BY e.ordinality)
      INTO actions FROM jsonb_array_elements(actions) WITH ORDINALITY AS e;
    SELECT string_agg(format('action %s: %s', f.ordinality, f.faults), E'\n' ORDER BY f.ordinality) INTO wrong
      FROM (SELECT e.ordinality, concat_ws('; ', sfsync.action_faults(e.value),
                   CASE WHEN e.value ->> 'idempotency_key' IS NOT NULL
                             AND row_number() OVER (PARTITION BY e.value ->> 'idempotency_key' ORDER BY e.ordinality) > 1
                        THEN 'its idempotency key is given twice' END) AS faults
              FROM jsonb_array_elements(actions) WITH ORDINALITY AS e) AS f
     WHERE f.faults <> '';
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'sfsync: nothing was enqueued: %', split_part(wrong, E'\n', 1)
            USING ERRCODE = 'invalid_parameter_value', DETAIL = wrong;
    END IF;

    WITH rows AS (
        SELECT e.ordinality::int - 1 AS place, gen_random_uuid() AS id, e.value AS document
          FROM jsonb_array_elements(actions) WITH ORDINALITY AS e
    ), named AS (  -- the org's own spelling, where it is known
        SELECT o.given, coalesce(
                   (SELECT m.object FROM sfsync.mirrors AS m
                     WHERE m.connection_id = connection AND lower(m.object) = lower(o.given) LIMIT 1),
                   (SELECT d.describe ->> 'name' FROM sfsync.object_describes AS d
                     WHERE d.connection_id = connection AND d.object = lower(o.given)),
                   (SELECT q.object FROM sfsync.action_queues AS q
                     WHERE q.connection_id = connection AND lower(q.object) = lower(o.given) ORDER BY q.id LIMIT 1),
                   o.given) AS object
          FROM (SELECT DISTINCT document ->> 'object' AS given FROM rows) AS o
    )
    SELECT array_agg((r.place, r.id, n.object, r.document ->> 'idempotency_key', sfsync.content_hash(r.document),
                      sfsync.line_of(r.id, r.document),
                      r.document ->> 'operation' = 'create' AND r.document ->> 'order_key' IS NULL
                      AND coalesce(r.document -> 'parents', '{}') = '{}', r.document)::sfsync.asked_action ORDER BY r.place)
      INTO asked FROM rows AS r JOIN named AS n ON n.given = r.document ->> 'object';

    WITH stored AS (
        INSERT INTO sfsync.actions AS a (id, connection_id, object, operation, record_id, external_id_field, external_id, fields,
                                         idempotency_key, content_hash, order_key, ticket, priority, after_failure, mergeable,
                                         if_unmodified_since, callback_url, state, source, checked, created_at)
        SELECT n.id, connection, n.object, n.document ->> 'operation', sfsync.record_id_18(n.document ->> 'record_id'),
               n.document ->> 'external_id_field', n.document ->> 'external_id', coalesce(n.document -> 'fields', '{}'),
               n.key, n.content_hash, n.order_key,
               CASE WHEN n.alone THEN 0 ELSE - n.number END,
               coalesce((n.document ->> 'priority')::numeric, 0)::smallint, coalesce(n.document ->> 'after_failure', 'go_on'),
               coalesce((n.document ->> 'mergeable')::boolean, false), (n.document ->> 'if_unmodified_since')::timestamptz,
               n.document ->> 'callback_url', 'waiting', 'sql', false, clock_timestamp() + n.place * interval '1 microsecond'
          FROM (SELECT u.*, nextval('sfsync.arrival_numbers') AS number
                  FROM (SELECT * FROM unnest(asked) ORDER BY place) AS u) AS n
         ORDER BY n.key, n.place
            ON CONFLICT (connection_id, idempotency_key) DO NOTHING
        RETURNING a.id
    )
    SELECT array_agg(stored.id) INTO made FROM stored;

    -- Keys that were there: the same content is the same action, other content is refused.
    SELECT n.key, a.id, a.content_hash = n.content_hash AS same INTO reused
      FROM unnest(asked) AS n
      LEFT JOIN sfsync.actions AS a ON a.connection_id = connection AND a.idempotency_key = n.key
     WHERE NOT n.id = ANY (coalesce(made, '{}')) AND (a.content_hash = n.content_hash) IS NOT TRUE
     ORDER BY n.place LIMIT 1;
    IF FOUND AND reused.id IS NULL THEN  -- it was stored after this transaction's snapshot
        RAISE EXCEPTION 'sfsync: the idempotency key % is being used by another transaction', quote_literal(reused.key)
            USING ERRCODE = 'serialization_failure';
    ELSIF FOUND THEN
        RAISE EXCEPTION 'sfsync: the idempotency key % was used before with other content', quote_literal(reused.key)
            USING ERRCODE = 'unique_violation', DETAIL = format('action %s', reused.id);
    END IF;

    WITH named AS (
        SELECT n.place, n.id, p.key AS field, p.value #>> '{}' AS name
          FROM unnest(asked) AS n, jsonb_each(n.document -> 'parents') AS p WHERE n.id = ANY (made)
    ), found AS (
        SELECT n.place, n.id, n.field, n.name,
               coalesce((SELECT CASE WHEN b.id = ANY (made) THEN b.id END FROM unnest(asked) AS b WHERE b.key = n.name AND b.place < n.place),
                        (SELECT a.id FROM sfsync.actions AS a WHERE a.connection_id = connection AND a.idempotency_key = n.name
                            AND a.id <> n.id AND NOT EXISTS (SELECT 1 FROM unnest(asked) AS b WHERE b.id = a.id AND b.place >= n.place)),
                        (SELECT a.id FROM sfsync.actions AS a WHERE a.connection_id = connection
                            AND a.id = CASE WHEN pg_input_is_valid(n.name, 'uuid') THEN n.name::uuid END)) AS parent_id
          FROM named AS n
    ), judged AS (
        SELECT f.*, CASE WHEN a.id IS NULL THEN 'was not accepted before and does not stand before this one'
                         WHEN a.operation NOT IN ('create', 'upsert') THEN 'makes no record'
                         WHEN a.state IN ('rejected', 'conflict', 'cancelled') THEN 'is ' || a.state END AS wrong
          FROM found AS f LEFT JOIN sfsync.actions AS a ON a.id = f.parent_id
    ), kept AS (
        INSERT INTO sfsync.action_parents (action_id, field, parent_id)
        SELECT j.id, j.field, j.parent_id FROM judged AS j WHERE j.wrong IS NULL
    )
    SELECT string_agg(format('action %s: %s: action %s %s', j.place + 1, j.field, quote_literal(j.name), j.wrong), E'\n' ORDER BY j.place)
      INTO wrong FROM judged AS j WHERE j.wrong IS NOT NULL;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'sfsync: nothing was enqueued: %', split_part(wrong, E'\n', 1)
            USING ERRCODE = 'invalid_parameter_value', DETAIL = wrong;
    END IF;

    IF made IS NOT NULL THEN
        INSERT INTO sfsync.action_arrivals (xact, action_ids) VALUES (pg_current_xact_id()::text::bigint, made);
    END IF;
    RETURN QUERY
        SELECT n.place, coalesce(a.id, n.id), a.id IS NOT NULL
          FROM unnest(asked) AS n
          LEFT JOIN sfsync.actions AS a
            ON a.connection_id = connection AND a.idempotency_key = n.key AND NOT n.id = ANY (coalesce(made, '{}'))
         ORDER BY n.place;
END $$;

CREATE FUNCTION sfsync.enqueue_action(
    user_id text, object text, operation text, fields jsonb DEFAULT NULL, record_id text DEFAULT NULL,
    external_id_field text DEFAULT NULL, external_id text DEFAULT NULL, idempotency_key text DEFAULT NULL,
    order_key text DEFAULT NULL, priority int DEFAULT NULL, after_failure text DEFAULT NULL, mergeable boolean DEFAULT NULL,
    if_unmodified_since timestamptz DEFAULT NULL, parents jsonb DEFAULT NULL, callback_url text DEFAULT NULL
) RETURNS uuid LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
SELECT e.action_id FROM sfsync.enqueue_actions(user_id, jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
    'object', object, 'operation', operation, 'record_id', record_id, 'external_id_field', external_id_field,
    'external_id', external_id, 'idempotency_key', idempotency_key, 'order_key', order_key, 'priority', priority,
    'after_failure', after_failure, 'mergeable', mergeable, 'if_unmodified_since', if_unmodified_since,
    'callback_url', callback_url)) || CASE WHEN fields IS NULL THEN '{}' ELSE jsonb_build_object('fields', fields) END
                                   || CASE WHEN parents IS NULL THEN '{}' ELSE jsonb_build_object('parents', parents) END)) AS e
$$;

-- What became of an action: by its id, or by its idempotency key. Null when there is none.
CREATE FUNCTION sfsync.read_action(action_id uuid) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
SELECT jsonb_build_object('id', a.id, 'state', a.state, 'operation', a.operation, 'object', a.object, 'record_id', a.record_id,
                          'idempotency_key', a.idempotency_key, 'attempts', a.attempts, 'outcome', a.outcome, 'error', a.error,
                          'created_at', a.created_at, 'finished_at', a.finished_at)
  FROM sfsync.actions AS a WHERE a.id = action_id
$$;
CREATE FUNCTION sfsync.read_action(user_id text, idempotency_key text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
SELECT sfsync.read_action(a.id) FROM sfsync.actions AS a JOIN public.salesforce_oauth_tokens AS c ON c.id = a.connection_id
 WHERE c.user_id = read_action.user_id AND a.idempotency_key = read_action.idempotency_key
$$;

-- Nobody may call them until an operator grants it: see docs/operations.md.
REVOKE ALL ON FUNCTION sfsync.enqueue_actions, sfsync.enqueue_action, sfsync.read_action(uuid), sfsync.read_action(text, text),
                       sfsync.settle_arrivals, sfsync.action_faults, sfsync.content_hash, sfsync.line_of, sfsync.record_id_18,
                       sfsync.canonical_json FROM PUBLIC;
