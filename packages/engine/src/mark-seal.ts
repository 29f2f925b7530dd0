/**
 * Marks of backfills hold values of keys, and a stream sink writes them into its records (delivery-header.ts) to know
 * after a crash what arrived. Where rules keep values from messages, the marks are encrypted: only this process reads them.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { MillraceError } from '@millrace/core/error';
import { sinkKey } from '@millrace/core/sink-key';
import type { StateTable } from '@millrace/stream-store/store';
import { hidesValues } from './decode/row-rules.ts';
import type { SinkSpec } from './sink-spec.ts';

const ALGORITHM = 'aes-256-gcm';
const SEALED = 'sealed';
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

export class MarkSeal {
  readonly #state: StateTable;
  readonly #stateKey: string;
  readonly #seals: boolean;
  #stored: Promise<void> | null = null;
  #key: Buffer | null;

  constructor(state: StateTable, spec: Pick<SinkSpec, 'name' | 'rules'>) {
    this.#state = state;
    this.#stateKey = sinkKey(spec.name, 'seal');
    this.#seals = spec.rules !== undefined && hidesValues(spec.rules);
    const stored = state.get(this.#stateKey);
    this.#key = stored === undefined ? null : Buffer.from(stored);
  }

  /** Before anything is sealed: the key is durable, so that a restart can read what was sealed with it. */
  async ready(): Promise<void> {
    if (!this.#seals) return;
    if (this.#key === null) {
      this.#key = randomBytes(KEY_BYTES);
      this.#stored = this.#state.put(this.#stateKey, this.#key);
    }
    await this.#stored;
  }

  seal(mark: readonly string[]): readonly string[] {
    if (!this.#seals) return mark;
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv(ALGORITHM, this.#key!, nonce);
    const sealed = Buffer.concat([nonce, cipher.update(JSON.stringify(mark)), cipher.final(), cipher.getAuthTag()]);
    return [SEALED, sealed.toString('base64')];
  }

  /** Also of marks that were sealed under earlier rules, or not. null: with a key that is lost; the backfill begins anew. */
  open(mark: readonly string[]): readonly string[] | null {
    if (mark.length !== 2 || mark[0] !== SEALED) return mark;
    const bytes = Buffer.from(mark[1]!, 'base64');
    if (this.#key === null || bytes.length < NONCE_BYTES + TAG_BYTES) return null;
    const decipher = createDecipheriv(ALGORITHM, this.#key, bytes.subarray(0, NONCE_BYTES));
    decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
    let text: string;
    try {
      text = Buffer.concat([decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES)), decipher.final()]).toString();
    } catch {
      return null;
    }
    const opened: unknown = JSON.parse(text);
    if (!Array.isArray(opened)) throw new MillraceError('storage_corrupt', { detail: 'A sealed mark is none.' });
    return opened as string[];
  }

  openAll(marks: ReadonlyMap<string, readonly string[]>): ReadonlyMap<string, readonly string[]> {
    const opened = new Map<string, readonly string[]>();
    for (const [id, mark] of marks) {
      const one = this.open(mark);
      if (one !== null) opened.set(id, one);
    }
    return opened;
  }
}
