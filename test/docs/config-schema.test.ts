/** docs/millrace.schema.json, which editors check millrace.yaml with. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { SINK_KINDS } from '@millrace/sinks/sink-kinds';
import { Ajv } from 'ajv';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { CONFIG_SCHEMA, configSchemaText } from '../../tools/generate-config-schema.ts';
import { documentation, ROOT } from './markdown.ts';

const schema = JSON.parse(readFileSync(CONFIG_SCHEMA, 'utf8'));
const valid = new Ajv({
  allErrors: true,
  allowUnionTypes: true,
  strictTypes: false,
  unicodeRegExp: true,
  formats: { uri: true },
}).compile(schema);
const FOLDER = join(ROOT, 'packages/api/test/sequin');

function problems(text: string): string[] {
  valid(parse(text, { merge: true }));
  return (valid.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`);
}

test('is what the schemas of the code make; else: node tools/generate-config-schema.ts', () => {
  expect(readFileSync(CONFIG_SCHEMA, 'utf8')).toBe(configSchemaText());
});

const shown = documentation().flatMap(({ path, blocks }) =>
  blocks.filter(({ info }) => info === 'yaml config').map(({ text }) => [path, text] as const),
);

test.each(shown)('takes the configuration that %s shows', (_, text) => {
  expect(problems(text)).toEqual([]);
});

const here = new Set(['s2', ...SINK_KINDS.flatMap(({ type, aliases = [] }) => [type, ...aliases])]);

test.each(readdirSync(FOLDER))('takes the file of Sequin %s', (file) => {
  const text = readFileSync(join(FOLDER, file), 'utf8');
  const { sinks } = parse(text, { merge: true }) as { sinks: { destination: { type: string } }[] };
  const all = sinks.every(({ destination }) => here.has(destination.type));
  expect(problems(text).length === 0).toBe(all);
});

test.each([
  [
    'an unknown key',
    'sinks: [{ name: a, database: d, tabel: t, destination: { type: sequin_stream } }]',
    'additional properties',
  ],
  ['a missing one', 'sinks: [{ name: a, destination: { type: sequin_stream } }]', "required property 'database'"],
  ['a wrong value', 'databases: [{ name: a, pool_size: many }]', '/databases/0/pool_size'],
  [
    'an unknown action',
    'sinks: [{ name: a, database: d, actions: [upsert], destination: { type: sequin_stream } }]',
    '/sinks/0/actions/0',
  ],
])('refuses %s', (_, text, expected) => {
  expect(problems(text).join('\n')).toContain(expected);
});

test('describes keys, and gives no default that the code does not have', () => {
  const { properties } = schema.properties.sinks.anyOf[0].items;
  expect(properties.max_retry_count.description).toContain('dead letter');
  expect(Object.keys(properties).length).toBeGreaterThan(30);
});
