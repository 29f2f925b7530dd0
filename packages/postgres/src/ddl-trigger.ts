/**
 * The SQL by which a source tells of DDL in its own stream: event triggers that write a logical message. Sinks with
 * `schema_changes` deliver it as action `ddl`; without it they see shapes of tables all the same. A superuser runs it
 * (on managed services their administrative role). It makes no table, and a fault in it never fails the user's DDL.
 */

/** Of the messages that the triggers write. */
export const DDL_PREFIX = 'millrace.ddl';

export const DDL_TRIGGER_SQL = `CREATE SCHEMA IF NOT EXISTS millrace;

CREATE OR REPLACE FUNCTION millrace.report_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  events json[];
  event json;
BEGIN
  BEGIN
    IF TG_EVENT = 'sql_drop' THEN
      SELECT array_agg(json_build_object(
          'command_tag', TG_TAG, 'object_type', o.object_type, 'identity', o.object_identity, 'schema', o.schema_name,
          'table', CASE o.object_type WHEN 'table' THEN o.object_name WHEN 'table column' THEN o.address_names[2] END))
        INTO events
        FROM pg_event_trigger_dropped_objects() AS o
       WHERE NOT o.is_temporary AND (o.original OR o.object_type IN ('table', 'table column'));
    ELSE
      SELECT array_agg(json_build_object(
          'command_tag', c.command_tag, 'object_type', c.object_type, 'identity', c.object_identity,
          'schema', COALESCE(n.nspname, c.schema_name), 'table', t.relname))
        INTO events
        FROM pg_event_trigger_ddl_commands() AS c
        LEFT JOIN pg_index AS i ON c.classid = 'pg_class'::regclass AND i.indexrelid = c.objid
        LEFT JOIN pg_class AS o ON c.classid = 'pg_class'::regclass AND o.oid = COALESCE(i.indrelid, c.objid)
                               AND o.relkind IN ('r', 'p')
        LEFT JOIN pg_class AS t ON t.oid = COALESCE(pg_partition_root(o.oid), o.oid)
        LEFT JOIN pg_namespace AS n ON n.oid = t.relnamespace
       WHERE c.schema_name IS DISTINCT FROM 'pg_temp';
    END IF;
  EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'millrace did not report %: %', TG_TAG, SQLERRM;
    RETURN;
  END;
  -- Outside of the block above: decoding may show a message of a subtransaction after the change that follows it.
  FOREACH event IN ARRAY COALESCE(events, '{}') LOOP
    PERFORM pg_logical_emit_message(true, '${DDL_PREFIX}', event::text);
  END LOOP;
END $$;

DROP EVENT TRIGGER IF EXISTS millrace_ddl;
DROP EVENT TRIGGER IF EXISTS millrace_drop;
CREATE EVENT TRIGGER millrace_ddl ON ddl_command_end EXECUTE FUNCTION millrace.report_ddl();
CREATE EVENT TRIGGER millrace_drop ON sql_drop EXECUTE FUNCTION millrace.report_ddl();
`;

export const DDL_TRIGGER_REMOVAL_SQL = `DROP EVENT TRIGGER IF EXISTS millrace_ddl;
DROP EVENT TRIGGER IF EXISTS millrace_drop;
DROP SCHEMA IF EXISTS millrace CASCADE;
`;
