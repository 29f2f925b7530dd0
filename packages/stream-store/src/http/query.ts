import { parseU64 } from '@millrace/core/u64';
import { S2Error } from '../s2-error.ts';

/** The parameters of a query string. Every complaint is bad_query and names the parameter, never its value. */
export class Query {
  readonly #values = new Map<string, string>();

  constructor(text: string) {
    if (text === '') return;
    for (const pair of text.split('&')) {
      if (pair === '') continue;
      const equals = pair.indexOf('=');
      const key = decode(equals < 0 ? pair : pair.slice(0, equals));
      if (this.#values.has(key)) throw new S2Error('bad_query', 'A query parameter is given twice.');
      this.#values.set(key, equals < 0 ? '' : decode(pair.slice(equals + 1)));
    }
  }

  text(key: string): string | undefined {
    return this.#values.get(key);
  }

  u64(key: string): bigint | undefined {
    const text = this.#values.get(key);
    if (text === undefined) return undefined;
    const value = parseU64(text);
    if (value === null) throw new S2Error('bad_query', `${key} has to be an unsigned 64-bit integer.`);
    return value;
  }

  u32(key: string): number | undefined {
    const value = this.u64(key);
    if (value === undefined) return undefined;
    if (value > 0xffff_ffffn) throw new S2Error('bad_query', `${key} has to be an unsigned 32-bit integer.`);
    return Number(value);
  }

  boolean(key: string): boolean | undefined {
    switch (this.#values.get(key)) {
      case undefined:
        return undefined;
      case 'true':
        return true;
      case 'false':
        return false;
      default:
        throw new S2Error('bad_query', `${key} has to be true or false.`);
    }
  }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    throw new S2Error('bad_query', 'The query string is not percent-encoded UTF-8.');
  }
}
