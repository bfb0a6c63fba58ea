-- What was accepted and could not be read again by a worker stood in everybody's way: times that Python cannot hold (infinity,
-- before the year 1), numbers of thousands of digits, values nested without end; and texts that are too long for an index entry.
-- They are refused now, as worker/actions/intent.py refuses them.

-- Everything that is wrong with the form of one action; null when nothing is.
CREATE OR REPLACE FUNCTION sfsync.action_faults(action jsonb) RETURNS text LANGUAGE plpgsql STABLE AS $$
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
        CASE WHEN coalesce(action ->> 'object' !~ '^[A-Za-z][A-Za-z0-9_]{0,254}$', true) THEN 'object is no API name' END,
        CASE WHEN (action ->> 'record_id' IS NULL) = (operation IN ('update', 'delete'))
             THEN 'an update or delete needs a record_id; a create or upsert has none' END,
        CASE WHEN action ->> 'record_id' IS NOT NULL AND sfsync.record_id_18(action ->> 'record_id') IS NULL
             THEN format('%s is no record id', action ->> 'record_id') END,
        CASE WHEN (coalesce(action ->> 'external_id', '') = '' OR action ->> 'external_id_field' IS NULL) = (operation = 'upsert')
                  OR (operation <> 'upsert' AND num_nonnulls(action ->> 'external_id', action ->> 'external_id_field') > 0)
             THEN 'an upsert needs external_id_field and external_id; nothing else has them' END,
        CASE WHEN action ->> 'external_id_field' !~ '^[A-Za-z][A-Za-z0-9_]{0,254}$' THEN 'external_id_field is no API name' END,
        CASE WHEN length(action ->> 'external_id') > 255 THEN 'an external_id has at most 255 characters' END,
        CASE WHEN operation = 'delete' AND coalesce(action -> 'fields', '{}') || coalesce(action -> 'parents', '{}') <> '{}'
             THEN 'a delete has no fields' END,
        CASE WHEN length(action ->> 'idempotency_key') NOT BETWEEN 1 AND 255
                  OR action ->> 'idempotency_key' ~ '[\u0001-\u001F\u007F-\u009F]'
             THEN 'an idempotency_key has 1 to 255 printable characters' END,
        CASE WHEN length(action ->> 'order_key') NOT BETWEEN 1 AND 255 THEN 'an order_key has 1 to 255 characters' END,
        CASE WHEN (action -> 'priority')::numeric NOT BETWEEN -32767 AND 32767
                  OR action ->> 'priority' !~ '^-?[0-9]+$'
             THEN 'a priority is a whole number from -32767 to 32767' END,
        CASE WHEN action ->> 'after_failure' NOT IN ('go_on', 'wait') THEN 'after_failure is go_on or wait' END,
        CASE WHEN (action -> 'mergeable')::boolean AND (operation <> 'update' OR action ->> 'if_unmodified_since' IS NOT NULL)
             THEN 'only an update without if_unmodified_since can be mergeable' END,
        CASE WHEN action ->> 'if_unmodified_since' IS NOT NULL AND operation NOT IN ('update', 'delete')
             THEN 'if_unmodified_since is for updates and deletes' END,
        CASE WHEN NOT pg_input_is_valid(action ->> 'if_unmodified_since', 'timestamptz') THEN 'if_unmodified_since is no time'
             WHEN (action ->> 'if_unmodified_since')::timestamptz NOT BETWEEN '0001-01-02 00:00+00' AND '9999-12-30 00:00+00'
             THEN 'if_unmodified_since is a time of the years 1 to 9999' END,
        CASE WHEN EXISTS (SELECT 1 FROM jsonb_each(action -> 'parents') AS m
                           WHERE jsonb_typeof(m.value) <> 'string' OR m.key !~ '^[A-Za-z][A-Za-z0-9_]{0,254}$'
                              OR EXISTS (SELECT 1 FROM jsonb_object_keys(action -> 'fields') AS name
                                          WHERE lower(name) = lower(m.key)))
             THEN 'parents: each is a field that is not among the fields, with an action''s id or idempotency key' END,
        CASE WHEN action ->> 'callback_url' !~ '^https?://[^/@?#\s\\]+([/?][^#\s\\]*)?$' OR action ->> 'callback_url' !~ '^[!-~]+$'
                  OR length(action ->> 'callback_url') > 2000
             THEN 'callback_url is an absolute http or https URL without user name or fragment' END,
        CASE WHEN jsonb_path_exists(action -> 'fields', 'strict $.**{11 to last}')
             THEN 'the fields are nested more than 10 levels deep'
             WHEN jsonb_path_exists(action -> 'fields', 'strict $.** ? (@ >= 1e400 || @ <= -1e400 || (@ > -1e-399 && @ < 1e-399 && @ != 0))')
             THEN 'a number is beyond what an org can hold' END];
    RETURN nullif(array_to_string(array_remove(wrong, NULL), '; '), '');
END $$;
