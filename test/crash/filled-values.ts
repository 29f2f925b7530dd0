/**
 * Whether a sink with fill_unchanged has filled in the right values. What is right is known from another sink of the same
 * source, which names the columns that an update left alone: the row's values before it, as that stream tells of them.
 */
import { createHash } from 'node:crypto';
import { parseJson } from '@millrace/testkit/oracle-values';

interface Message {
  readonly record: Readonly<Record<string, unknown>>;
  readonly changes: Readonly<Record<string, unknown>> | null;
  readonly action: string;
  readonly metadata: {
    readonly table_name: string;
    readonly commit_lsn: unknown;
    readonly commit_idx: number;
    readonly unchanged_columns?: readonly string[];
  };
}

interface KnownValue {
  readonly digest: string;
  /** The log has it. What only a backfill of the other sink has read, the index may not have come to yet. */
  readonly logged: boolean;
}

const SHOWN_MAX = 8;

export class FilledValues {
  readonly #table: string;
  /** Values of the large columns, by key: as digests, for there are many. */
  readonly #rows = new Map<unknown, Record<string, KnownValue>>();
  /** By place in the stream: what the columns that were left out have to be. */
  readonly #left = new Map<string, Record<string, KnownValue>>();
  readonly #problems: string[] = [];
  #filled = 0;

  /** Of one table, whose key is `id`. */
  constructor(table: string) {
    this.#table = table;
  }

  /** Each message of the sink that leaves them out, in order. */
  takeLeftOut(text: string): void {
    const message = this.#parse(text);
    if (message === null) return;
    const { record, changes, action, metadata } = message;
    const before = this.#rows.get(changes?.['id'] ?? record['id']);
    if (action === 'update') this.#rows.delete(changes?.['id'] ?? record['id']);
    if (action === 'delete') this.#rows.delete(record['id']);
    else {
      const now = valuesOf(record, action !== 'read');
      const left = metadata.unchanged_columns ?? [];
      const wanted: Record<string, KnownValue> = {};
      // A row that no backfill has come to yet has no values to compare with.
      for (const name of left) if (before?.[name] !== undefined) wanted[name] = now[name] = before[name];
      if (left.length > 0) this.#left.set(placeOf(message), wanted);
      this.#rows.set(record['id'], now);
    }
  }

  /** Each message of the sink that fills them in, after all of the other. */
  takeFilled(text: string): void {
    const message = this.#parse(text);
    if (message === null || message.action === 'read') return;
    const { record, metadata } = message;
    const place = placeOf(message);
    const wanted = this.#left.get(place);
    if (wanted === undefined) return;
    this.#left.delete(place);
    this.#filled++;
    const found = valuesOf(record, true);
    const unfilled = metadata.unchanged_columns ?? [];
    for (const [name, { digest, logged }] of Object.entries(wanted)) {
      if (!unfilled.includes(name)) {
        if (found[name]?.digest !== digest) this.#report(`${place} has another ${name} than the row had`);
      } else if (logged) this.#report(`${place} has no value for ${name}, which the log has`);
    }
  }

  end(): { readonly problems: readonly string[]; readonly filled: number } {
    if (this.#left.size > 0) this.#report(`${this.#left.size} updates are in one stream and not in the other`);
    return { problems: this.#problems, filled: this.#filled };
  }

  #parse(text: string): Message | null {
    if (!text.includes(`"table_name":"${this.#table}"`)) return null;
    const message = parseJson(text) as Message;
    return message.metadata.table_name === this.#table ? message : null;
  }

  #report(about: string): void {
    if (this.#problems.length < SHOWN_MAX) this.#problems.push(`not filled in: ${this.#table} at ${about}`);
  }
}

function placeOf({ metadata }: Message): string {
  return `${metadata.commit_lsn}#${metadata.commit_idx}`;
}

function valuesOf(record: Readonly<Record<string, unknown>>, logged: boolean): Record<string, KnownValue> {
  const found: Record<string, KnownValue> = {};
  for (const [name, value] of Object.entries(record)) {
    const text = JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? `${part}n` : part));
    found[name] = { digest: createHash('sha1').update(text).digest('base64'), logged };
  }
  return found;
}
