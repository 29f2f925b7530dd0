import { readFile, stat } from 'node:fs/promises';
import { MillraceError } from '@millrace/core/error';
import { type Document, LineCounter, parseDocument } from 'yaml';
import * as z from 'zod';
import { formatPath, type Path } from './config-document.ts';
import { parseDuration } from './duration.ts';
import { nearest } from './nearest.ts';
import { meant } from './raw-block.ts';

/**
 * A file that says which basins and streams there are to be, with which configuration: what `millrace apply` and
 * `--init-file` take, in the form that S2's CLI takes it (JSON; YAML as well). Declarative: what the file leaves out of a
 * configuration has its default afterwards.
 */
export interface ResourceSpec {
  readonly basins: readonly BasinSpec[];
}

export interface BasinSpec {
  readonly name: string;
  readonly config: BasinConfigWire;
  readonly streams: readonly StreamSpec[];
}

export interface StreamSpec {
  readonly name: string;
  readonly config: StreamConfigWire;
}

/** As in the HTTP API. Absent: the default. */
export interface StreamConfigWire {
  readonly storage_class?: 'standard' | 'express';
  readonly retention_policy?: { readonly age: number } | { readonly infinite: Record<string, never> };
  readonly timestamping?: {
    readonly mode?: 'client-prefer' | 'client-require' | 'arrival';
    readonly uncapped?: boolean;
  };
  readonly delete_on_empty?: { readonly min_age_secs: number };
}

export interface BasinConfigWire {
  readonly default_stream_config?: StreamConfigWire;
  readonly stream_cipher?: 'aegis-256' | 'aes-256-gcm';
  readonly create_stream_on_append?: boolean;
  readonly create_stream_on_read?: boolean;
}

export const SPEC_BYTES_MAX = 64 * 1_048_576;

const AGE = 'must be a duration such as "7days", "12h" or "90s"';

/** Whole seconds. */
const age = z.string().transform((text, context): number => {
  const ms = parseDuration(text);
  if (ms !== null) return Math.floor(ms / 1000);
  context.addIssue({ code: 'custom', message: AGE });
  return z.NEVER;
});

const retentionPolicy = z
  .string()
  .transform((text, context): NonNullable<StreamConfigWire['retention_policy']> => {
    if (text === 'infinite') return { infinite: {} };
    const ms = parseDuration(text);
    if (ms !== null && ms >= 1000) return { age: Math.floor(ms / 1000) };
    context.addIssue({ code: 'custom', message: `${AGE}, at least 1s, or "infinite"` });
    return z.NEVER;
  })
  .meta({ description: 'How long records are kept: a duration, or "infinite". Default: 7 days.', examples: ['7days'] });

const streamConfig = z
  .strictObject({
    storage_class: z.enum(['standard', 'express']).optional(),
    retention_policy: retentionPolicy.optional(),
    timestamping: z
      .strictObject({
        mode: z.enum(['client-prefer', 'client-require', 'arrival']).optional(),
        uncapped: z.boolean().optional().meta({ description: 'Take client timestamps from the future.' }),
      })
      .optional(),
    delete_on_empty: z
      .strictObject({
        min_age: age.meta({
          description: 'Delete the stream when empty for this long; "0s": never.',
          examples: ['1h'],
        }),
      })
      .transform(({ min_age }) => ({ min_age_secs: min_age }))
      .optional(),
  })
  .meta({ id: 'StreamConfig' });

const basinConfig = z
  .strictObject({
    default_stream_config: streamConfig.optional(),
    stream_cipher: z.enum(['aegis-256', 'aes-256-gcm']).optional(),
    create_stream_on_append: z.boolean().optional(),
    create_stream_on_read: z.boolean().optional(),
  })
  .meta({ id: 'BasinConfig' });

const streamName = z
  .string()
  .refine((name) => {
    const bytes = Buffer.byteLength(name);
    return bytes >= 1 && bytes <= 512 && name !== '.' && name !== '..';
  }, 'must have 1 to 512 bytes and not be "." or ".."')
  .meta({ minLength: 1, maxLength: 512 });

const resourceSpec = z
  .strictObject({
    $schema: z.string().optional(),
    basins: z
      .array(
        z.strictObject({
          name: z
            .string()
            .regex(
              /^[a-z0-9][a-z0-9-]{6,46}[a-z0-9]$/,
              'must have 8 to 48 lower-case letters, digits and "-", and neither start nor end with "-"',
            ),
          config: basinConfig.optional(),
          streams: z.array(z.strictObject({ name: streamName, config: streamConfig.optional() })).optional(),
        }),
      )
      .optional(),
  })
  .meta({ title: 'Basins and streams of a stream store' });

/** The JSON Schema of the file (draft 2020-12). */
export function resourceSpecSchema(): unknown {
  return z.toJSONSchema(resourceSpec, { io: 'input' });
}

/** Throws spec_unreadable, or what parseResourceSpec throws. */
export async function readResourceSpec(file: string): Promise<ResourceSpec> {
  let text: string;
  try {
    const { size } = await stat(file);
    if (size > SPEC_BYTES_MAX) {
      throw new MillraceError('spec_unreadable', { detail: `${file} is larger than ${SPEC_BYTES_MAX} bytes.` });
    }
    text = await readFile(file, 'utf8');
  } catch (cause) {
    if (cause instanceof MillraceError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    const reason = code === 'ENOENT' ? 'there is no such file' : `the system says ${code}`;
    throw new MillraceError('spec_unreadable', { detail: `${file}: ${reason}.`, cause });
  }
  return parseResourceSpec(text, file);
}

/** Throws spec_invalid whose detail lists every problem, one per line: `file:line: path: what is wrong`. */
export function parseResourceSpec(text: string, file: string): ResourceSpec {
  const lineCounter = new LineCounter();
  // JSON is YAML, and this parser knows where everything stands.
  const document = parseDocument(text, { lineCounter, prettyErrors: false, logLevel: 'silent' });
  const problems: { line: number; text: string }[] = document.errors.map(({ pos, message }) => ({
    line: lineCounter.linePos(pos[0]).line,
    text: message.charAt(0).toLowerCase() + message.slice(1),
  }));
  const report = (path: Path, problem: string): void => {
    const where = path.length === 0 ? '' : `${formatPath(path)}: `;
    problems.push({ line: lineOf(path), text: `${where}${problem}` });
  };
  const lineOf = (path: Path): number => {
    for (let length = path.length; length > 0; length--) {
      const node = document.getIn(path.slice(0, length), true) as { range?: [number, ...unknown[]] } | undefined;
      if (node?.range !== undefined) return lineCounter.linePos(node.range[0]).line;
    }
    return 1;
  };
  const value = problems.length === 0 ? plainValue(document, report) : null;
  if (problems.length === 0) {
    const parsed = resourceSpec.safeParse(value ?? {}, { error: describe, reportInput: true });
    if (parsed.success) {
      const basins = (parsed.data.basins ?? []).map(({ name, config, streams }) => ({
        name,
        config: (config ?? {}) as BasinConfigWire,
        streams: (streams ?? []).map((stream) => ({
          name: stream.name,
          config: (stream.config ?? {}) as StreamConfigWire,
        })),
      }));
      reportDuplicates(basins, report);
      if (problems.length === 0) return { basins };
    } else {
      for (const issue of parsed.error.issues) reportIssue(issue, report);
    }
  }
  const lines = problems.sort((a, b) => a.line - b.line).map((problem) => `${file}:${problem.line}: ${problem.text}`);
  const hint = 'See the schema of this file: millrace apply --schema';
  throw new MillraceError('spec_invalid', { detail: `\n${lines.join('\n')}`, hint });
}

function plainValue(document: Document, report: (path: Path, text: string) => void): unknown {
  try {
    return document.toJS();
  } catch {
    report([], 'an alias (*name) has no anchor (&name) before it, or there are too many of them');
    return null;
  }
}

/** The second of two would silently win. */
function reportDuplicates(basins: readonly BasinSpec[], report: (path: Path, text: string) => void): void {
  const names = new Set<string>();
  for (const [index, basin] of basins.entries()) {
    if (names.has(basin.name)) report(['basins', index, 'name'], 'is the name of a basin above');
    names.add(basin.name);
    const streams = new Set<string>();
    for (const [at, stream] of basin.streams.entries()) {
      if (streams.has(stream.name)) report(['basins', index, 'streams', at, 'name'], 'is the name of a stream above');
      streams.add(stream.name);
    }
  }
}

function describe(issue: z.core.$ZodRawIssue): string | undefined {
  if (issue.input === undefined) return 'is required';
  if (issue.code === 'invalid_value') return `must be one of ${issue.values.join(', ')}`;
  if (issue.code !== 'invalid_type') return undefined;
  return issue.expected === 'object' ? 'must be an object' : `must be of type ${issue.expected}`;
}

/** Of all levels: a key in the wrong block is a likely mistake too. */
const KEYS = [
  ...['basins', 'name', 'config', 'streams', 'default_stream_config', 'stream_cipher', 'create_stream_on_append'],
  ...['create_stream_on_read', 'storage_class', 'retention_policy', 'timestamping', 'mode', 'uncapped'],
  ...['delete_on_empty', 'min_age'],
];

function reportIssue(issue: z.core.$ZodIssue, report: (path: Path, text: string) => void): void {
  const path = issue.path.map((part) => (typeof part === 'symbol' ? String(part) : part));
  if (issue.code !== 'unrecognized_keys') {
    report(path, issue.message);
    return;
  }
  for (const key of issue.keys) report([...path, key], `unknown key${meant(nearest(key, KEYS))}`);
}
