/**
 * The truth to judge a stream by: a second replication slot, read with SQL and decoded here, with nothing of the product
 * in between. It tells of every committed transaction, in commit order, what each change was and how the table looked.
 * Source: "Logical Replication Message Formats" in the Postgres manual.
 */
import type { TestDatabase } from '@millrace/testkit/postgres';
import type { Client } from 'pg';
import { TEXT_SETTINGS } from './expected-value.ts';
import type { SchemaEvent } from './schema.ts';

/** Text as Postgres sends it; null; or undefined for an out-of-line value that an update left alone. */
export type Values = readonly (string | null | undefined)[];

export interface ReferenceColumn {
  readonly name: string;
  readonly type: string;
  /** Part of the replica identity. */
  readonly identity: boolean;
}

export interface ReferenceRelation {
  readonly schema: string;
  readonly name: string;
  readonly columns: readonly ReferenceColumn[];
}

export type ReferenceChange =
  | { readonly kind: 'insert'; readonly relation: ReferenceRelation; readonly values: Values }
  | {
      readonly kind: 'update';
      readonly relation: ReferenceRelation;
      readonly values: Values;
      readonly old: OldRow | null;
    }
  | { readonly kind: 'delete'; readonly relation: ReferenceRelation; readonly old: OldRow }
  /** Of one table; a statement makes one for each. */
  | { readonly kind: 'truncate'; readonly relation: ReferenceRelation }
  | { readonly kind: 'message'; readonly prefix: string; readonly content: string; readonly transactional: boolean };

export interface OldRow {
  /** The whole row, or the columns of the identity alone: the others are null. */
  readonly whole: boolean;
  readonly values: Values;
}

export interface ReferenceTransaction {
  /** LSN of the commit record; of a message outside of a transaction, its own. */
  readonly lsn: bigint;
  readonly changes: readonly ReferenceChange[];
}

export async function createReference(db: TestDatabase, publication: string): Promise<string> {
  const slot = `truth_${db.name}`;
  await db.sql(`CREATE PUBLICATION ${publication} FOR ALL TABLES`);
  await db.sql(`SELECT pg_create_logical_replication_slot('${slot}', 'pgoutput')`);
  return slot;
}

/** Everything the slot has seen, in a session of its own: its settings are those under which the text of values is made. */
export async function readReference(
  client: Client,
  slot: string,
  publication: string,
): Promise<ReferenceTransaction[]> {
  await client.query(TEXT_SETTINGS);
  const types = await readTypes(client);
  const changes = await client.query<{ data: Buffer }>(
    `SELECT data FROM pg_logical_slot_peek_binary_changes('${slot}', NULL, NULL,
       'proto_version', '1', 'publication_names', '${publication}', 'messages', 'true')`,
  );
  const decoder = new Decoder(types);
  for (const { data } of changes.rows) decoder.take(data);
  return decoder.transactions;
}

/** By OID. */
export async function readTypes(client: Client): Promise<Map<number, string>> {
  const { rows } = await client.query<{ oid: number; type: string }>(TYPES);
  return new Map(rows.map(({ oid, type }) => [oid, type]));
}

/** A domain is its base type, an array an underscore before its element's. */
const TYPES = `
  WITH RECURSIVE base AS (
    SELECT oid, oid AS of FROM pg_type WHERE typtype <> 'd'
    UNION ALL SELECT t.oid, b.of FROM pg_type t JOIN base b ON b.oid = t.typbasetype WHERE t.typtype = 'd')
  SELECT base.oid::int8::int AS oid,
         CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 AND t.typname LIKE '\\_%' THEN '_' || coalesce(e.typname, '') ELSE t.typname END AS type
  FROM base JOIN pg_type t ON t.oid = base.of LEFT JOIN base eb ON eb.oid = t.typelem LEFT JOIN pg_type e ON e.oid = eb.of`;

class Decoder {
  readonly transactions: ReferenceTransaction[] = [];
  readonly #types: ReadonlyMap<number, string>;
  readonly #relations = new Map<number, ReferenceRelation>();
  #open: { lsn: bigint; changes: ReferenceChange[] } | null = null;
  #data: Buffer = Buffer.alloc(0);
  #at = 0;

  constructor(types: ReadonlyMap<number, string>) {
    this.#types = types;
  }

  take(data: Buffer): void {
    this.#data = data;
    this.#at = 0;
    const tag = String.fromCharCode(this.#byte());
    if (tag === 'B') this.#open = { lsn: this.#long(), changes: [] };
    else if (tag === 'C') {
      this.transactions.push(this.#open!);
      this.#open = null;
    } else if (tag === 'R') this.#relation();
    else if (tag === 'M') this.#message();
    else if (tag === 'T') this.#truncate();
    else if (tag === 'I') {
      const relation = this.#relationOf();
      this.#at++; // N
      this.#add({ kind: 'insert', relation, values: this.#tuple() });
    } else if (tag === 'U') this.#update();
    else if (tag === 'D') {
      const relation = this.#relationOf();
      this.#add({ kind: 'delete', relation, old: this.#old() });
    } else if (tag !== 'Y' && tag !== 'O') throw new Error(`the reference slot sent a message of kind ${tag}`);
  }

  #add(change: ReferenceChange): void {
    this.#open!.changes.push(change);
  }

  #update(): void {
    const relation = this.#relationOf();
    const old = this.#data[this.#at] === 0x4e ? null : this.#old();
    this.#at++; // N
    this.#add({ kind: 'update', relation, old, values: this.#tuple() });
  }

  #truncate(): void {
    const count = this.#int();
    this.#byte();
    for (let i = 0; i < count; i++) this.#add({ kind: 'truncate', relation: this.#relationOf() });
  }

  #message(): void {
    const transactional = (this.#byte() & 1) === 1;
    const lsn = this.#long();
    const prefix = this.#text();
    const size = this.#int();
    const content = this.#data.toString('utf8', this.#at, this.#at + size);
    const change = { kind: 'message', prefix, content, transactional } as const;
    if (transactional) this.#add(change);
    // What Postgres names is the end of its record, where the record of a commit may begin: its last byte is its place.
    else this.transactions.push({ lsn: lsn - 1n, changes: [change] });
  }

  #relation(): void {
    const oid = this.#int();
    const schema = this.#text() || 'pg_catalog';
    const name = this.#text();
    this.#byte();
    const count = this.#short();
    const columns = Array.from({ length: count }, (): ReferenceColumn => {
      const identity = (this.#byte() & 1) === 1;
      const column = this.#text();
      const type = this.#types.get(this.#int());
      this.#int();
      if (type === undefined) throw new Error(`column ${column} of ${name} is of a type that is gone`);
      return { name: column, type, identity };
    });
    this.#relations.set(oid, { schema, name, columns });
  }

  #relationOf(): ReferenceRelation {
    return this.#relations.get(this.#int())!;
  }

  #old(): OldRow {
    const whole = String.fromCharCode(this.#byte()) === 'O';
    return { whole, values: this.#tuple() };
  }

  #tuple(): Values {
    return Array.from({ length: this.#short() }, () => {
      const kind = String.fromCharCode(this.#byte());
      if (kind === 'n') return null;
      if (kind === 'u') return undefined;
      const size = this.#int();
      const text = this.#data.toString('utf8', this.#at, this.#at + size);
      this.#at += size;
      return text;
    });
  }

  #byte(): number {
    return this.#data[this.#at++]!;
  }

  #short(): number {
    this.#at += 2;
    return this.#data.readUInt16BE(this.#at - 2);
  }

  #int(): number {
    this.#at += 4;
    return this.#data.readUInt32BE(this.#at - 4);
  }

  #long(): bigint {
    this.#at += 8;
    return this.#data.readBigUInt64BE(this.#at - 8);
  }

  #text(): string {
    const end = this.#data.indexOf(0, this.#at);
    const text = this.#data.toString('utf8', this.#at, end);
    this.#at = end + 1;
    return text;
  }
}

/** Tables that are attached or detached by a change of the log of schema changes. */
export function movedBy(change: ReferenceChange): string[] {
  if (change.kind !== 'insert' || change.relation.name !== 'schema_log') return [];
  const event = JSON.parse(change.values[1]!) as SchemaEvent;
  return event.op === 'attach' || event.op === 'detach' ? [event.table, event.parent] : [];
}
