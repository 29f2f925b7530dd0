/**
 * Messages of a slot, made with somebody else's pgoutput parser and the oracle's own rules for values: what the product
 * would deliver, without the product. For tests of the testkit itself.
 */

import type { Row, StreamMessage } from '@millrace/testkit/oracle';
import { UNCHANGED_MARKER } from '@millrace/testkit/oracle';
import { expectedValue } from '@millrace/testkit/oracle-values';
import type { TestDatabase } from '@millrace/testkit/postgres';
import pg from 'pg';
import { type Pgoutput, PgoutputPlugin } from 'pg-logical-replication';

// 1009 is the oid of text[]; pg's types list only some.
const textArray = pg.types.getTypeParser(1009 as never) as (text: string) => unknown;

type Tuple = Readonly<Record<string, string | null | undefined>>;

export async function createSlot(database: TestDatabase): Promise<void> {
  await database.sql('CREATE PUBLICATION everything FOR ALL TABLES');
  await database.sql(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [database.name]);
}

export async function drainSlot(database: TestDatabase): Promise<StreamMessage[]> {
  const types = new Map<number, string>();
  for (const { oid, typname } of await database.sql<{ oid: number; typname: string }>(
    'SELECT oid, typname FROM pg_type',
  ))
    types.set(oid, typname);
  const chunks = await database.sql<{ data: Buffer }>(
    `SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', 'everything')`,
    [database.name],
  );
  const parser = new PgoutputPlugin({ protoVersion: 1, publicationNames: ['everything'] });
  const messages: StreamMessage[] = [];
  let lsn = 0n;
  let idx = 0;
  for (const { data } of chunks) {
    const parsed = parser.parse(data);
    if (parsed.tag === 'begin') {
      const [high, low] = parsed.commitLsn!.split('/');
      lsn = (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`);
      idx = 0;
    } else if (parsed.tag === 'relation') {
      // Texts as Postgres sent them: the rules for values are the oracle's.
      for (const column of parsed.columns) (column as { parser: (text: string) => unknown }).parser = (text) => text;
    } else if (parsed.tag === 'insert' || parsed.tag === 'update' || parsed.tag === 'delete') {
      messages.push(messageOf(parsed, lsn, idx++, types));
    } else if (parsed.tag === 'truncate') idx += parsed.relations.length;
  }
  return messages;
}

function messageOf(
  change: Pgoutput.MessageInsert | Pgoutput.MessageUpdate | Pgoutput.MessageDelete,
  lsn: bigint,
  idx: number,
  types: ReadonlyMap<number, string>,
): StreamMessage {
  const { relation } = change;
  const typeOf = new Map(relation.columns.map(({ name, typeOid }) => [name, types.get(typeOid)!]));
  const values = (tuple: Tuple): Row =>
    Object.fromEntries(relation.columns.map(({ name }) => [name, jsonValue(tuple[name], typeOf.get(name)!)]));
  const old = change.tag === 'insert' ? null : ((change.old ?? change.key) as Tuple | null);
  const record = values(change.tag === 'delete' ? old! : (change.new as Tuple));
  const changes: Record<string, unknown> = {};
  if (change.tag === 'update' && old !== null) {
    const before = values(old);
    for (const name of Object.keys(old)) {
      if (JSON.stringify(before[name]) !== JSON.stringify(record[name])) changes[name] = before[name];
    }
  }
  return {
    record: change.tag === 'delete' ? nullsForMarkers(record) : record,
    changes: change.tag === 'update' ? changes : null,
    action: change.tag,
    metadata: { table_schema: relation.schema, table_name: relation.name, commit_lsn: lsn, commit_idx: idx },
  };
}

/** A delete under the default identity knows the key alone. */
function nullsForMarkers(record: Row): Row {
  return Object.fromEntries(
    Object.entries(record).map(([name, value]) => [name, value === UNCHANGED_MARKER ? null : value]),
  );
}

function jsonValue(text: string | null | undefined, type: string): unknown {
  if (text === undefined) return UNCHANGED_MARKER;
  if (text === null) return null;
  if (type === 'bool') return text === 't';
  if (type === '_text') return textArray(text);
  if (type === 'timestamptz') return expectedValue(text.replace(/\+00$/, ''), type);
  return expectedValue(text, type);
}
