import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { MillraceError } from '@millrace/core/error';
import type * as z from 'zod';
import { checkConfig } from './config-checks.ts';
import { type DatabaseConfig, resolveDatabase } from './config-database.ts';
import { formatPath, type Path, type Problem, parseConfigDocument } from './config-document.ts';
import {
  type FunctionConfig,
  type HttpEndpointConfig,
  resolveFunction,
  resolveHttpEndpoint,
} from './config-functions.ts';
import { expandReferences, type References } from './config-references.ts';
import { type ConfigFile, configSchema } from './config-schema.ts';
import { resolveSink, type SinkConfig } from './config-sink.ts';
import { readConfigText } from './config-text.ts';
import { nearest } from './nearest.ts';
import { meant } from './raw-block.ts';
import { keysOf, schemaAt } from './schema-walk.ts';

export type { DatabaseConfig, ServerConfig, SslMode } from './config-database.ts';
export type { FunctionConfig, HttpEndpointConfig } from './config-functions.ts';
export type {
  DestinationConfig,
  InitialTableConfig,
  PushDestinationConfig,
  S2DestinationConfig,
  SinkAction,
  SinkConfig,
  SinkContents,
  SourceConfig,
  TableName,
} from './config-sink.ts';
export { isS2, parseTableName } from './config-sink.ts';

/** The configuration the engine works from, with every default filled in. Made only here, from the YAML file. */
export interface Config {
  readonly databases: readonly DatabaseConfig[];
  readonly sinks: readonly SinkConfig[];
  readonly functions: readonly FunctionConfig[];
  readonly httpEndpoints: readonly HttpEndpointConfig[];
  /** What was taken and has no effect, or not the one it seems to have: `path: text`. */
  readonly warnings: readonly string[];
}

export const NO_CONFIG: Config = { databases: [], sinks: [], functions: [], httpEndpoints: [], warnings: [] };

export interface LoadOptions {
  /** For messages, and what relative paths in the file are relative to. */
  readonly file: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** How to read a file the configuration names. Throws when it cannot be read. */
  readonly readText?: (path: string) => string;
}

/** Throws config_unreadable, or what loadConfig throws. */
export async function readConfigFile(file: string, env: LoadOptions['env']): Promise<Config> {
  return loadConfig(await readConfigText(file), { file, env });
}

/**
 * Parses a config file. Throws config_invalid whose detail lists every problem, one per line:
 * `file:line: path: what is wrong (did you mean "x"?)`. No value of the file is ever quoted there.
 */
export function loadConfig(text: string, options: LoadOptions): Config {
  const { file } = options;
  const document = parseConfigDocument(text);
  const problems: Problem[] = [...document.problems];
  const report = (path: Path, problem: string): void => {
    problems.push({ line: document.lineOf(path), path: formatPath(path), text: problem });
  };
  if (document.value === undefined) throw invalid(file, problems);
  if (document.value === null) report([], 'the file is empty');
  else {
    const value = expandReferences(document.value, referencesOf(options), report);
    const config = configOf(value, { readText: relativeTo(options), lineOf: document.lineOf, report });
    if (config !== null && problems.length === 0) return config;
  }
  throw invalid(file, problems);
}

/** How files that a configuration file names are read: relative to it. */
export function relativeTo({ file, readText = readTextFile }: LoadOptions): (path: string) => string {
  return (path) => readText(resolve(dirname(file), path));
}

export const REFERRED_BYTES_MAX = 1_048_576;

function readTextFile(path: string): string {
  const bytes = readFileSync(path);
  if (bytes.length > REFERRED_BYTES_MAX) throw Object.assign(new Error('too large'), { code: 'FILE_TOO_LARGE' });
  return bytes.toString('utf8');
}

export function referencesOf(options: LoadOptions): References {
  return { variable: (name) => options.env[name], file: relativeTo(options) };
}

export interface ValueOptions {
  readonly readText: (path: string) => string;
  readonly lineOf: (path: Path) => number;
  readonly report: (path: Path, text: string) => void;
}

/** From plain values without references to a configuration; null once a problem was reported. */
export function configOf(value: unknown, options: ValueOptions): Config | null {
  let failed = false;
  const report = (path: Path, text: string): void => {
    failed = true;
    options.report(path, text);
  };
  const warnings: string[] = [];
  const parsed = parseKeys(value, report);
  checkConfig(value, options.lineOf, report, (path, text) => warnings.push(`${formatPath(path)}: ${text}`));
  if (parsed === null || failed) return null;
  const config = resolveConfig(parsed, warnings, options.readText, report);
  return failed ? null : config;
}

/** What the schema alone says of it. */
export function parseKeys(value: unknown, report: (path: Path, text: string) => void): ConfigFile | null {
  const parsed = configSchema.safeParse(value, { error: describe, reportInput: true });
  for (const issue of parsed.error?.issues ?? []) reportIssue(issue, value, report);
  return parsed.success ? (parsed.data as ConfigFile) : null;
}

export function invalid(file: string, problems: readonly Problem[]): MillraceError {
  const lines = [...problems]
    .sort((a, b) => a.line - b.line)
    .map(({ line, path, text }) => `${file}:${line === 0 ? '' : `${line}:`} ${path === '' ? '' : `${path}: `}${text}`);
  return new MillraceError('config_invalid', { detail: `\n${[...new Set(lines)].join('\n')}` });
}

/** For what the schema has no text of its own. */
function describe(issue: z.core.$ZodRawIssue): string | undefined {
  if (issue.input === undefined) return 'is required';
  if (issue.code !== 'invalid_type') return undefined;
  return issue.expected === 'object' ? 'must be a block of keys and values' : `must be of type ${issue.expected}`;
}

function reportIssue(issue: z.core.$ZodIssue, root: unknown, report: (path: Path, text: string) => void): void {
  const path = issue.path.map((part) => (typeof part === 'symbol' ? String(part) : part));
  if (issue.code !== 'unrecognized_keys') {
    report(path, issue.message);
    return;
  }
  // What stands in the block already is not what the mistyped key was meant to be.
  const present = Object.keys((issue.input ?? {}) as object);
  const free = validKeys(root, path).filter((key) => !present.includes(key));
  for (const key of issue.keys) {
    report([...path, key], `unknown key${meant(nearest(key, free))}`);
  }
}

/** The keys the schema has at a path of the value. */
function validKeys(root: unknown, path: Path): readonly string[] {
  let schema: z.core.$ZodType | undefined = configSchema;
  let value = root;
  for (const part of path) {
    schema = schemaAt(schema, value, part);
    if (schema === undefined) return [];
    value = (value as Record<string, unknown> | null | undefined)?.[part];
  }
  return keysOf(schema, value);
}

function resolveConfig(
  parsed: ConfigFile,
  warnings: readonly string[],
  readText: (path: string) => string,
  report: (path: Path, text: string) => void,
): Config {
  const functions = (['functions', 'transforms'] as const).flatMap((key) =>
    (parsed[key] ?? []).map((one, index) =>
      resolveFunction(one, readText, (path, text) => report([key, index, ...path], text)),
    ),
  );
  const httpEndpoints = (parsed.http_endpoints ?? []).map(resolveHttpEndpoint);
  const byName = new Map(functions.map((one) => [one.name, one]));
  return {
    databases: (parsed.databases ?? []).map((database, index) =>
      resolveDatabase(database, readText, (key, text) => report(['databases', index, key], text)),
    ),
    sinks: (parsed.sinks ?? []).map((sink) => resolveSink(sink, byName, httpEndpoints)),
    functions,
    httpEndpoints,
    warnings,
  };
}
