import { MillraceError } from '@millrace/core/error';
import { BATCH_METERED_BYTES_MAX } from '../limits.ts';

/**
 * What an operator may limit, as a value and as text. Everything is off unless it is set. Rates are enforced by
 * throttle.ts, quotas by quotas.ts.
 */

/** Of one stream; null: no limit. */
export interface StreamRates {
  /** Of each connection to the stream. */
  readonly appendBatchesPerSec: number | null;
  /** Metered bytes, of all connections together. */
  readonly appendBytesPerSec: number | null;
  readonly readBytesPerSec: number | null;
}

export interface StreamRule {
  readonly basin: string;
  /** Of the stream's whole name, or of its beginning. */
  readonly match: { readonly stream: string } | { readonly prefix: string };
  readonly rates: Partial<StreamRates>;
}

export interface LimitsConfig {
  readonly rates: StreamRates;
  /** The first that matches a stream replaces what it names of `rates`. */
  readonly streams: readonly StreamRule[];
  /** Of one access token. */
  readonly requestsPerSec: number | null;
  /** By access token id: instead of `requestsPerSec`. */
  readonly tokens: ReadonlyMap<string, { readonly requestsPerSec: number | null }>;
  readonly quotas: QuotaLimits;
}

export interface QuotaLimits {
  readonly basinsMax: number | null;
  readonly streamsPerBasinMax: number | null;
  /** Metered bytes retained in all streams of clients. */
  readonly storedBytesMax: number | null;
}

export const NO_QUOTAS: QuotaLimits = { basinsMax: null, streamsPerBasinMax: null, storedBytesMax: null };

export const NO_LIMITS: LimitsConfig = {
  rates: { appendBatchesPerSec: null, appendBytesPerSec: null, readBytesPerSec: null },
  streams: [],
  requestsPerSec: null,
  tokens: new Map(),
  quotas: NO_QUOTAS,
};

/**
 * A whole batch has to pass at some time, and a reader that is made to wait longer than clients wait for a heartbeat
 * (20 s) looks dead: at this rate 1 MiB takes 16 s.
 */
export const LIMIT_BYTES_PER_SEC_MIN = BATCH_METERED_BYTES_MAX / 16;
/** Rules of single streams and tokens. */
export const LIMIT_RULES_MAX = 1000;

type Kind = 'count' | 'bytes' | 'byte-rate';

const RATE_FIELDS: Record<string, Kind> = {
  append_batches_per_sec: 'count',
  append_bytes_per_sec: 'byte-rate',
  read_bytes_per_sec: 'byte-rate',
};
const TOP_FIELDS: Record<string, Kind> = {
  ...RATE_FIELDS,
  requests_per_sec: 'count',
  basins_max: 'count',
  streams_per_basin_max: 'count',
  stored_bytes_max: 'bytes',
};
/** What can be set, as the CLI and docs list it. */
export const LIMIT_NAMES: readonly string[] = Object.keys(TOP_FIELDS).map((name) => name.replaceAll('_', '-'));

/**
 * Two forms. Text: `append-batches-per-sec=200,append-bytes-per-sec=100MiB,basins-max=100`, with commas or white space
 * between. JSON, when it begins with a brace: the same names with underscores, and `streams` and `tokens`:
 *
 *   {"append_bytes_per_sec": "100MiB",
 *    "streams": [{"basin": "b", "prefix": "logs/", "read_bytes_per_sec": "10MiB"}],
 *    "tokens": {"reader": {"requests_per_sec": 50}}}
 *
 * null (JSON) and `off` (text) mean no limit. Throws config_invalid, which names the place.
 */
export function parseLimits(text: string): LimitsConfig {
  const trimmed = text.trim();
  return limitsOf(trimmed.startsWith('{') ? parseObject(trimmed) : parsePairs(trimmed));
}

function parseObject(text: string): Fields {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw invalid('the limits are not valid JSON');
  }
  return asFields(json, 'limits');
}

function parsePairs(text: string): Fields {
  const fields: Record<string, unknown> = {};
  for (const pair of text.split(/[,\s]+/)) {
    if (pair === '') continue;
    const equals = pair.indexOf('=');
    const name = equals < 0 ? pair : pair.slice(0, equals);
    const field = name.replaceAll('-', '_');
    if (equals < 0 || name.includes('_') || !Object.hasOwn(TOP_FIELDS, field)) {
      throw invalid(`"${name}" is none of ${LIMIT_NAMES.join(', ')}, each followed by =value`);
    }
    if (Object.hasOwn(fields, field)) throw invalid(`"${name}" is given twice`);
    const value = pair.slice(equals + 1);
    fields[field] = value === 'off' ? null : value;
  }
  return fields;
}

type Fields = Readonly<Record<string, unknown>>;

function limitsOf(fields: Fields): LimitsConfig {
  refuseUnknown(fields, [...Object.keys(TOP_FIELDS), 'streams', 'tokens'], 'limits');
  const value = (name: string) => limitValue(fields, name, TOP_FIELDS[name]!, name) ?? null;
  return {
    rates: {
      appendBatchesPerSec: value('append_batches_per_sec'),
      appendBytesPerSec: value('append_bytes_per_sec'),
      readBytesPerSec: value('read_bytes_per_sec'),
    },
    streams: streamRules(fields.streams),
    requestsPerSec: value('requests_per_sec'),
    tokens: tokenRules(fields.tokens),
    quotas: {
      basinsMax: value('basins_max'),
      streamsPerBasinMax: value('streams_per_basin_max'),
      storedBytesMax: value('stored_bytes_max'),
    },
  };
}

function streamRules(json: unknown): StreamRule[] {
  if (json === undefined) return [];
  if (!Array.isArray(json)) throw invalid('streams has to be a list');
  refuseTooMany(json.length, 'streams');
  return json.map((entry, index) => {
    const where = `streams[${index}]`;
    const fields = asFields(entry, where);
    refuseUnknown(fields, ['basin', 'stream', 'prefix', ...Object.keys(RATE_FIELDS)], where);
    const { basin, stream, prefix } = fields;
    if (typeof basin !== 'string') throw invalid(`${where}.basin has to be the name of a basin`);
    if ((typeof stream === 'string') === (typeof prefix === 'string')) {
      throw invalid(`${where} needs stream or prefix, and not both`);
    }
    const rates: { -readonly [K in keyof StreamRates]?: StreamRates[K] } = {};
    const set = (key: keyof StreamRates, name: string) => {
      const value = limitValue(fields, name, RATE_FIELDS[name]!, `${where}.${name}`);
      if (value !== undefined) rates[key] = value;
    };
    set('appendBatchesPerSec', 'append_batches_per_sec');
    set('appendBytesPerSec', 'append_bytes_per_sec');
    set('readBytesPerSec', 'read_bytes_per_sec');
    return { basin, match: typeof stream === 'string' ? { stream } : { prefix: prefix as string }, rates };
  });
}

function tokenRules(json: unknown): LimitsConfig['tokens'] {
  const rules = new Map<string, { requestsPerSec: number | null }>();
  if (json === undefined) return rules;
  const entries = Object.entries(asFields(json, 'tokens'));
  refuseTooMany(entries.length, 'tokens');
  for (const [id, entry] of entries) {
    const where = `tokens.${id}`;
    const fields = asFields(entry, where);
    refuseUnknown(fields, ['requests_per_sec'], where);
    const value = limitValue(fields, 'requests_per_sec', 'count', `${where}.requests_per_sec`);
    if (value === undefined) throw invalid(`${where} sets no limit`);
    rules.set(id, { requestsPerSec: value });
  }
  return rules;
}

const NUMBER = /^(\d+)([KMGT]iB|B)?$/;
const UNIT_BYTES: Record<string, number> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };

/** undefined: not set; null: set to no limit. */
function limitValue(fields: Fields, name: string, kind: Kind, where: string): number | null | undefined {
  const given = fields[name];
  if (given === undefined || given === null) return given;
  const parts = typeof given === 'number' || typeof given === 'string' ? NUMBER.exec(String(given)) : null;
  const unit = parts?.[2];
  const value = parts === null ? Number.NaN : Number(parts[1]) * (unit === undefined ? 1 : UNIT_BYTES[unit]!);
  const expected = kind === 'count' ? 'a whole number above 0' : 'a number of bytes above 0, as in 100MiB';
  if (!Number.isSafeInteger(value) || value <= 0 || (kind === 'count' && unit !== undefined)) {
    throw invalid(`${where} has to be ${expected}`);
  }
  if (kind === 'byte-rate' && value < LIMIT_BYTES_PER_SEC_MIN) {
    throw invalid(`${where} has to be at least ${LIMIT_BYTES_PER_SEC_MIN} bytes`);
  }
  return value;
}

function asFields(json: unknown, where: string): Fields {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) throw invalid(`${where} has to be an object`);
  return json as Fields;
}

function refuseUnknown(fields: Fields, known: readonly string[], where: string): void {
  for (const name of Object.keys(fields)) {
    if (!known.includes(name)) throw invalid(`${where} does not take "${name}"; it takes ${known.join(', ')}`);
  }
}

function refuseTooMany(count: number, where: string): void {
  if (count > LIMIT_RULES_MAX) throw invalid(`${where} has more than ${LIMIT_RULES_MAX} entries`);
}

function invalid(detail: string): MillraceError {
  return new MillraceError('config_invalid', { detail: `Limits: ${detail}.` });
}
