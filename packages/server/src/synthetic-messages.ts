/** Made-up messages to try a function on, where there are none yet: an insert, an update and a delete of one row. */
import type { ColumnDescription } from '@millrace/postgres/catalog';
import type { TypeDescription } from '@millrace/postgres/value-json';

export interface SyntheticTable {
  readonly schema: string;
  readonly name: string;
  /** null: not known; a few columns that many tables have. */
  readonly columns: readonly Pick<ColumnDescription, 'name' | 'type'>[] | null;
  readonly primaryKey: readonly string[];
}

const COMMIT_TIME = '2026-01-02T03:04:05.678901Z';

const ANY_RECORD = {
  id: 1,
  name: 'Example',
  price: '4.99',
  quantity: 3,
  status: 'active',
  email: 'someone@example.com',
  created_at: '2026-01-02T03:04:05.678901Z',
  updated_at: '2026-01-02T03:04:05.678901Z',
};

export function syntheticMessages(table: SyntheticTable, database = 'database'): string[] {
  const record: Record<string, unknown> =
    table.columns === null
      ? ANY_RECORD
      : Object.fromEntries(table.columns.map(({ name, type }) => [name, exampleOf(type, 1)]));
  const keys = table.primaryKey.length > 0 ? table.primaryKey : Object.keys(record).slice(0, 1);
  const changed = Object.keys(record).find((name) => !keys.includes(name));
  const type = table.columns?.find(({ name }) => name === changed)?.type;
  const before = changed === undefined ? {} : { [changed]: type === undefined ? 'Before' : exampleOf(type, 2) };
  const message = (action: string, changes: unknown, index: number) =>
    JSON.stringify({
      record,
      changes,
      action,
      metadata: {
        table_schema: table.schema,
        table_name: table.name,
        commit_timestamp: COMMIT_TIME,
        commit_lsn: 24_000_000 + index,
        commit_idx: 0,
        idempotency_key: Buffer.from(`${24_000_000 + index}:0`).toString('base64'),
        transaction_annotations: null,
        record_pks: keys.map((name) => String(record[name])),
        enrichment: null,
        database_name: database,
        database: {
          id: '00000000-0000-0000-0000-000000000001',
          name: database,
          annotations: {},
          database,
          hostname: 'localhost',
        },
        consumer: { id: '00000000-0000-0000-0000-000000000002', name: 'example', annotations: {} },
      },
    });
  return [message('insert', null, 0), message('update', before, 1), message('delete', null, 2)];
}

/** A value as the codec of the stream writes one of this type (value-json.ts of @millrace/postgres). */
export function exampleOf(type: TypeDescription, which: number): unknown {
  if (type.base !== undefined) return exampleOf(type.base, which);
  if (type.element !== undefined) return [exampleOf(type.element, which)];
  if (type.kind !== 'base') return `${type.name} ${which}`;
  switch (type.name) {
    case 'bool':
      return which === 1;
    case 'int2':
    case 'int4':
    case 'int8':
    case 'oid':
      return which;
    case 'float4':
    case 'float8':
      return which + 0.5;
    case 'numeric':
      return `${which}.50`;
    case 'timestamp':
      return `2026-01-0${which}T03:04:05.678901`;
    case 'timestamptz':
      return `2026-01-0${which}T03:04:05.678901Z`;
    case 'date':
      return `2026-01-0${which}`;
    case 'time':
      return `0${which}:02:03`;
    case 'interval':
      return { months: 0, days: which, microseconds: 0 };
    case 'json':
    case 'jsonb':
      return { key: which };
    case 'uuid':
      return `00000000-0000-4000-8000-00000000000${which}`;
    case 'vector':
      return [which, 0.5];
    default:
      return `text ${which}`;
  }
}
