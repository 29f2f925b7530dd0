/** Functions and HTTP endpoints as the engine gets them. */
import { sinkKind } from '@millrace/sinks/sink-kinds';
import type { Path } from './config-document.ts';
import type { FUNCTION_TYPES, FunctionFile, HttpEndpointFile } from './function-schema.ts';
import { readFailure } from './read-failure.ts';

export type FunctionType = (typeof FUNCTION_TYPES)[number];

/** What a sink filters, transforms, routes or enriches with. A file it was in has been read already. */
export interface FunctionConfig {
  readonly name: string;
  readonly description: string;
  readonly type: FunctionType;
  /** Of type routing: the `destination.type` it finds routes for. Otherwise null. */
  readonly sinkType: string | null;
  /** TypeScript or JavaScript; of type enrichment SQL; of type path the path. */
  readonly code: string;
  /** Where the code was read from, as the configuration names it; null: it is in the configuration. */
  readonly file: string | null;
  /** Of type enrichment: for how long a row that was read is used again, and how many are kept. null: never. */
  readonly cache: { readonly ttlMs: number; readonly rowsMax: number } | null;
}

/** Where webhook sinks send to. */
export interface HttpEndpointConfig {
  readonly name: string;
  /** Without a trailing slash. */
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly encryptedHeaders: Readonly<Record<string, string>>;
  /** Of all sinks of the endpoint together; null: no limit. */
  readonly maxRequestsPerSecond: number | null;
  readonly maxConcurrency: number | null;
}

export const ENRICHMENT_ROWS_MAX = 10_000;

type Report = (path: Path, text: string) => void;

/** An older sequin.yaml has what describes a function in a block of its own. */
export function functionBody(file: FunctionFile): Pick<FunctionFile, 'type' | 'sink_type' | 'code' | 'path' | 'file'> {
  return file.function ?? file.transform ?? file;
}

export function resolveFunction(
  file: FunctionFile,
  readText: (path: string) => string,
  report: Report,
): FunctionConfig {
  const { type, sink_type: sinkType, code, path, file: source } = functionBody(file);
  const text = source == null ? (code ?? path ?? '') : readCode(source, readText, report);
  return {
    name: file.name,
    description: file.description ?? '',
    type: type ?? 'path',
    sinkType: type !== 'routing' || sinkType == null ? null : (sinkKind(sinkType)?.type ?? sinkType),
    code: text,
    file: source ?? null,
    cache:
      file.cache == null ? null : { ttlMs: file.cache.ttl_ms, rowsMax: file.cache.rows_max ?? ENRICHMENT_ROWS_MAX },
  };
}

function readCode(source: string, readText: (path: string) => string, report: Report): string {
  try {
    return readText(source);
  } catch (error) {
    report(['file'], `cannot be read: ${readFailure(error)}`);
    return '';
  }
}

export function resolveHttpEndpoint(file: HttpEndpointFile): HttpEndpointConfig {
  return {
    name: file.name,
    url: (file.url ?? '').replace(/\/+$/, ''),
    headers: headersOf(file.headers),
    encryptedHeaders: headersOf(file.encrypted_headers),
    maxRequestsPerSecond: file.max_requests_per_second ?? null,
    maxConcurrency: file.max_concurrency ?? null,
  };
}

function headersOf(given: HttpEndpointFile['headers']): Record<string, string> {
  if (given == null) return {};
  if (!Array.isArray(given)) return { ...given };
  return Object.fromEntries(given.map(({ key, value }) => [key, value]));
}
