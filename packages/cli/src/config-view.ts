import { formatDuration } from '@millrace/api/duration';
import type { BasinConfig, StreamConfig } from '@s2-dev/streamstore';

/** Configurations as people read them (a table) and as machines do (the JSON of the HTTP API). */

/** `snake_case` keys throughout, as on the wire. */
export function toWire(value: unknown): unknown {
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map(toWire);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [snakeCase(key), toWire(inner)]));
}

/** The SDK's names for what is `snake_case` on the wire. */
export function fromWire(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(fromWire);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [camelCase(key), fromWire(inner)]));
}

function camelCase(key: string): string {
  if (key === 'age') return 'ageSecs';
  return key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function snakeCase(key: string): string {
  // The one name the SDK does not only write differently.
  if (key === 'ageSecs') return 'age';
  return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

export type Rows = [key: string, value: string][];

export function streamConfigRows(config: StreamConfig): Rows {
  const rows: Rows = [];
  if (config.storageClass != null) rows.push(['storage_class', config.storageClass]);
  const retention = config.retentionPolicy;
  if (retention != null) {
    rows.push(['retention_policy', 'ageSecs' in retention ? formatDuration(retention.ageSecs) : 'infinite']);
  }
  if (config.timestamping?.mode != null) rows.push(['timestamping.mode', config.timestamping.mode]);
  if (config.timestamping?.uncapped != null) rows.push(['timestamping.uncapped', String(config.timestamping.uncapped)]);
  const minAgeSecs = config.deleteOnEmpty?.minAgeSecs;
  if (minAgeSecs !== undefined) {
    rows.push(['delete_on_empty.min_age', minAgeSecs === 0 ? 'off' : formatDuration(minAgeSecs)]);
  }
  return rows;
}

export function basinConfigRows(config: BasinConfig): Rows {
  return [
    ...streamConfigRows(config.defaultStreamConfig ?? {}).map(([key, value]): Rows[number] => [
      `default_stream_config.${key}`,
      value,
    ]),
    ['stream_cipher', config.streamCipher ?? 'none'],
    ['create_stream_on_append', String(config.createStreamOnAppend ?? false)],
    ['create_stream_on_read', String(config.createStreamOnRead ?? false)],
  ];
}

export function formatTable(rows: Rows): string {
  const width = Math.max(0, ...rows.map(([key]) => key.length));
  return rows.map(([key, value]) => `${key.padEnd(width)}  ${value}\n`).join('');
}
