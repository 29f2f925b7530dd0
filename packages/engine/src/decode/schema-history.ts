/**
 * Table schemas by RELATION message. What a RELATION does not say (type families, primary key, partition root) is asked
 * of the catalog once, when the message is first met, and kept in the state table: later decoding of the same position
 * does not depend on what the catalog says by then.
 */
import { createHash } from 'node:crypto';
import { decodeRelation, type Relation } from '@millrace/postgres/pgoutput';
import type { StateTable } from '@millrace/stream-store/store';
import type { TableSchema } from '../table-schema.ts';

/** Asks the source's catalog. Rejects with a coded error when the source cannot be asked. */
export type DescribeRelation = (relation: Relation) => Promise<TableSchema>;

export class SchemaHistory {
  readonly #state: StateTable;
  readonly #prefix: string;
  readonly #describe: DescribeRelation;
  readonly #known = new Map<string, TableSchema>();
  readonly #asked = new Map<string, Promise<TableSchema>>();

  constructor(state: StateTable, prefix: string, describe: DescribeRelation) {
    this.#state = state;
    this.#prefix = prefix;
    this.#describe = describe;
  }

  /** undefined: not described yet; see `learn`. */
  lookup(message: Buffer): TableSchema | undefined {
    const key = this.#key(message);
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const stored = this.#state.get(key);
    if (stored === undefined) return undefined;
    const schema = JSON.parse(Buffer.from(stored).toString()) as TableSchema;
    this.#known.set(key, schema);
    return schema;
  }

  /** Describes the relation, durably. Concurrent calls share one question. */
  learn(message: Buffer): Promise<TableSchema> {
    const key = this.#key(message);
    const running = this.#asked.get(key);
    if (running !== undefined) return running;
    const asked = this.#ask(key, decodeRelation(message, 0, message.length)).finally(() => this.#asked.delete(key));
    this.#asked.set(key, asked);
    return asked;
  }

  async #ask(key: string, relation: Relation): Promise<TableSchema> {
    const schema = await this.#describe(relation);
    await this.#state.put(key, Buffer.from(JSON.stringify(schema)));
    this.#known.set(key, schema);
    return schema;
  }

  #key(message: Buffer): string {
    const hash = createHash('sha256').update(message).digest('base64url').slice(0, 22);
    return `${this.#prefix}/${message.readUInt32BE(1)}/${hash}`;
  }
}
