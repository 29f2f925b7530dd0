/**
 * Writes into each page of docs/sinks/ what follows from the kind's schemas: `node tools/generate-sink-docs.ts` (bundled
 * Node 24). It replaces what is between `<!-- keys -->` and `<!-- /keys -->`; the rest of a page is written by hand. A
 * kind without a page gets one to be written on. test/docs/sinks.test.ts holds the pages to it.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import * as z from 'zod';
import type { SinkKind } from '../packages/sinks/src/sink-kind.ts';
import { SINK_KINDS } from '../packages/sinks/src/sink-kinds.ts';

const FOLDER = new URL('../docs/sinks/', import.meta.url);
const BEGIN = '<!-- keys -->';
const END = '<!-- /keys -->';
const NOTICE =
  '<!-- Made by tools/generate-sink-docs.ts from the schemas of the kind. Do not edit up to the end mark. -->';

// biome-ignore lint/suspicious/noExplicitAny: each kind has its own configuration and routes.
type AnyKind = SinkKind<any, any>;

export const KINDS: readonly AnyKind[] = SINK_KINDS;

export function pageFile(kind: AnyKind): URL {
  return new URL(`${kind.type.replaceAll('_', '-')}.md`, FOLDER);
}

/** The page as it should be; `page` as it is, or null where there is none. */
export function sinkPage(kind: AnyKind, page: string | null): string {
  const text = page ?? `# ${kind.title}\n\n${kind.summary}\n\n${BEGIN}\n`;
  const from = text.indexOf(BEGIN);
  if (from === -1) throw new Error(`${fileURLToPath(pageFile(kind))} has no line ${BEGIN}`);
  const end = text.indexOf(END, from);
  const rest = end === -1 ? text.slice(from + BEGIN.length) : text.slice(end + END.length);
  return `${text.slice(0, from)}${BEGIN}\n${NOTICE}\n\n${generated(kind)}\n${END}${rest}`;
}

function generated(kind: AnyKind): string {
  const { type, aliases, batchSize, batchTimeoutMs } = kind;
  const also = aliases === undefined || aliases.length === 0 ? '' : ` (or ${aliases.map(code).join(', ')})`;
  const parts = [
    '## Keys',
    `Of \`destination\`. A key that is not listed is refused by name. \`type\` is \`${type}\`${also}.`,
    table(propertiesOf(kind.schema, 'input')),
    `\`batch_size\` of the sink is ${batchSize.default} when not set, ${batchSize.max} at most; ` +
      `\`batch_timeout_ms\` is ${batchTimeoutMs} when not set.`,
    '## Example of a destination',
    `\`\`\`yaml\n${stringify({ destination: kind.example }).trimEnd()}\n\`\`\``,
    '## Routing',
  ];
  if (kind.routing === null) parts.push('A sink of this kind takes no routing function.');
  else {
    parts.push('What a routing function may return; what it leaves out is as configured, or the default.');
    parts.push(table(propertiesOf(kind.routing, 'input')));
  }
  return `${parts.join('\n\n')}\n`;
}

interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly JsonSchema[];
  readonly items?: JsonSchema;
  readonly additionalProperties?: JsonSchema | boolean;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly description?: string;
  readonly default?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly maxLength?: number;
  readonly secret?: boolean;
}

interface Property {
  readonly name: string;
  readonly schema: JsonSchema;
  readonly required: boolean;
}

function propertiesOf(schema: z.ZodType, io: 'input' | 'output'): Property[] {
  const { properties = {}, required = [] } = z.toJSONSchema(schema, { io, unrepresentable: 'any' }) as JsonSchema;
  return Object.entries(properties)
    .filter(([name]) => name !== 'type')
    .map(([name, property]) => ({ name, schema: property, required: required.includes(name) }));
}

function table(properties: readonly Property[]): string {
  if (properties.length === 0) return 'There is none.';
  const rows = properties.map(({ name, schema, required }) => {
    const value = `${kindOfValue(schema)}${required ? ', required' : ''}${schema.secret === true ? ', secret' : ''}`;
    return `| ${code(name)} | ${value} | ${cell(meaningOf(schema))} |`;
  });
  return ['| Key | Value | Meaning |', '|---|---|---|', ...rows].join('\n');
}

function meaningOf({ description = '', default: standard }: JsonSchema): string {
  // Most descriptions say it, in their own words.
  if (standard === undefined || /\bdefault\b/i.test(description) || isEmptyObject(standard)) return description;
  return `${description} Default ${code(JSON.stringify(standard))}.`.trimStart();
}

function isEmptyObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length === 0;
}

function kindOfValue(schema: JsonSchema): string {
  if (schema.const !== undefined) return code(JSON.stringify(schema.const));
  if (schema.enum !== undefined) return schema.enum.map((one) => code(String(one))).join(', ');
  if (schema.anyOf !== undefined) return [...new Set(schema.anyOf.map(kindOfValue))].join(' or ');
  switch (schema.type) {
    case 'string':
      return schema.maxLength === undefined ? 'text' : `text, at most ${schema.maxLength} characters`;
    case 'boolean':
      return 'true or false';
    case 'integer':
    case 'number':
      return `number${rangeOf(schema)}`;
    case 'array':
      return `list of ${kindOfValue(schema.items ?? {})}`;
    case 'null':
      return 'null';
    case 'object':
      return typeof schema.additionalProperties === 'object'
        ? `map of ${kindOfValue(schema.additionalProperties)}`
        : 'object';
    default:
      return 'any';
  }
}

function rangeOf({ minimum, maximum }: JsonSchema): string {
  const most = maximum === undefined || maximum >= Number.MAX_SAFE_INTEGER ? undefined : maximum;
  const least = minimum === undefined || minimum <= Number.MIN_SAFE_INTEGER ? undefined : minimum;
  if (least !== undefined && most !== undefined) return `, ${least} to ${most}`;
  if (least !== undefined) return `, at least ${least}`;
  return most === undefined ? '' : `, at most ${most}`;
}

function code(text: string): string {
  return `\`${text}\``;
}

/** In a table a bar ends the cell, and a sign in angle brackets would be markup. */
function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('<', '&lt;').replaceAll('\n', ' ');
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(FOLDER, { recursive: true });
  for (const kind of KINDS) {
    const file = pageFile(kind);
    writeFileSync(file, sinkPage(kind, existsSync(file) ? readFileSync(file, 'utf8') : null));
  }
}
