// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${VAR} is the syntax under test.

/** What is applied, planned and exported: drafts, plans and exports of any configuration. */
import { randomBytes } from 'node:crypto';
import { outsideOf } from '@millrace/api/applied/config-file';
import { type Applied, configOfSource, type Draft, draftOfText, NOTHING_APPLIED } from '@millrace/api/applied/draft';
import { exportYaml, yamlOf } from '@millrace/api/applied/export';
import { type Plan, planOf } from '@millrace/api/applied/plan';
import type { References } from '@millrace/api/config-references';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { FILES, randomConfig, SECRET_MARK, VARIABLES } from './random-config.ts';

vi.setConfig({ testTimeout: 120_000 });

const KEY = randomBytes(32);

const HERE: References = { variable: (name) => VARIABLES[name], file: (path) => fileOf(path) };
const NOWHERE: References = { variable: () => undefined, file: () => fileOf('') };

function fileOf(path: string): string {
  const text = FILES[path];
  if (text === undefined) throw Object.assign(new Error('none'), { code: 'ENOENT' });
  return text;
}

function draft(text: string, applied = NOTHING_APPLIED, outside = HERE, prune = true): Draft & { ok: true } {
  const found = draftOfText(text, { applied, outside, prune });
  if (!found.ok) throw new Error(JSON.stringify(found.problems));
  return found;
}

const plan = (now: Applied, next: Draft & { ok: true }): Plan => planOf(now, next, KEY);

describe('of any configuration', () => {
  test('its export changes nothing where it is applied, holds no secret, and comes to the same elsewhere', () => {
    fc.assert(
      fc.property(randomConfig, (document) => {
        const applied = draft(yamlOf(document));
        const exported = exportYaml(applied.source, false);
        expect(exported).not.toContain(SECRET_MARK);
        // With none of what it refers to at hand.
        const again = draft(exported, applied, NOWHERE);
        expect(plan(applied, again)).toMatchObject({ changes: [], actions: [], kept: [] });
        expect(again.config).toEqual(applied.config);
        expect(again.source).toEqual(applied.source);
        expect(exportYaml(again.source, false)).toBe(exported);
        const elsewhere = draft(exportYaml(applied.source, true));
        expect(elsewhere.config).toEqual(applied.config);
        expect(configOfSource(applied.source, 'x')).toEqual(applied.config);
        // As it is kept: JSON.
        expect(configOfSource(JSON.parse(JSON.stringify(applied.source)), 'x')).toEqual(applied.config);
      }),
      { numRuns: 60 },
    );
  });

  test('a plan from one to another is empty exactly when nothing differs, and holds no secret', () => {
    fc.assert(
      fc.property(randomConfig, randomConfig, fc.boolean(), (first, second, prune) => {
        const now = draft(yamlOf(first));
        const found = draftOfText(yamlOf(second), {
          applied: now,
          outside: HERE,
          prune,
        });
        if (!found.ok) {
          // What is refused is a sink that would move to another database.
          expect(found.problems.every(({ text }) => text.startsWith('cannot become another'))).toBe(true);
          return;
        }
        const { changes, actions, kept } = plan(now, found);
        expect(JSON.stringify({ changes, actions })).not.toContain(SECRET_MARK);
        if (changes.length === 0) expect(found.config).toEqual(now.config);
        if (prune) expect(kept).toEqual([]);
        else expect(changes.filter(({ action }) => action === 'delete')).toEqual([]);
        // Once applied, there is nothing more to do.
        const after = { source: found.source, config: found.config };
        const again = draftOfText(yamlOf(second), {
          applied: after,
          outside: HERE,
          prune,
        });
        expect(again.ok && plan(after, again).changes).toEqual([]);
      }),
      { numRuns: 40 },
    );
  });
});

const DATABASE =
  '{ name: d, hostname: h, database: d, password: "${PW}", slot: { name: s }, publication: { name: p } }';
const SINK =
  '{ name: a, database: d, filter: f, destination: { type: s2, basin: some-basin, stream: a, access_token: t0ken } }';
const OTHER = '{ name: b, database: d, destination: { type: webhook, http_endpoint: e } }';
const WHOLE = `databases: [${DATABASE}]
functions: [{ name: f, type: filter, code: "() => true" }]
http_endpoints: [{ name: e, url: "https://x.example" }]
sinks: [${SINK}, ${OTHER}]`;

function between(now: string, next: string, prune = true): Plan {
  const before = draft(now);
  return plan(before, draft(next, before, HERE, prune));
}

const types = ({ actions }: Plan) => actions.map(({ type, name }) => `${type} ${name}`);

describe('a plan says what follows', () => {
  test('of a function and of an endpoint: the sinks that name them', () => {
    const functionChanged = between(WHOLE, WHOLE.replace('() => true', '() => false'));
    expect(types(functionChanged)).toEqual(['restart_sink a']);
    expect(functionChanged.changes).toEqual([
      { action: 'update', kind: 'function', name: 'f', keys: [{ key: 'code', old: '() => true', new: '() => false' }] },
    ]);
    expect(types(between(WHOLE, WHOLE.replace('x.example', 'y.example')))).toEqual(['restart_sink b']);
  });

  test('of a database: all of its sinks, without naming each', () => {
    expect(types(between(WHOLE, WHOLE.replace('hostname: h', 'hostname: i')))).toEqual(['restart_database d']);
  });

  test('nothing, of what only reads otherwise', () => {
    const found = between(WHOLE, WHOLE.replace('hostname: h', 'hostname: h, port: 5432'));
    expect(found.changes).toEqual([
      { action: 'update', kind: 'database', name: 'd', keys: [{ key: 'port', new: 5432 }] },
    ]);
    expect(found.actions).toEqual([]);
  });

  test('of a secret: that it is another; of what it refers to: that too', () => {
    const token = between(WHOLE, WHOLE.replace('t0ken', 't1ken'));
    expect(token.changes[0]!.keys).toEqual([
      { key: 'destination.access_token', old: '(redacted)', new: '(redacted)', note: 'another secret' },
    ]);
    const before = draft(WHOLE);
    const outside = { ...HERE, variable: (name: string) => `${VARIABLES[name]}2` };
    const found = plan(before, draft(WHOLE, before, outside));
    expect(found.changes).toEqual([
      {
        action: 'update',
        kind: 'database',
        name: 'd',
        keys: [{ key: 'password', old: '${PW}', new: '${PW}', note: 'what it refers to is another' }],
      },
    ]);
    expect(types(found)).toEqual(['restart_database d']);
  });

  test('of a status: that it pauses, starts or ends', () => {
    const status = (value: string) => WHOLE.replace('name: a, database: d', `name: a, database: d, status: ${value}`);
    expect(types(between(WHOLE, status('paused')))).toEqual(['pause_sink a']);
    expect(types(between(WHOLE, status('disabled')))).toEqual(['stop_sink a']);
    expect(types(between(status('disabled'), WHOLE))).toEqual(['start_sink a']);
  });

  test('of a backfill that is asked for: that it starts', () => {
    const found = between(WHOLE, WHOLE.replace('name: b, database: d', 'name: b, database: d, initial_backfill: true'));
    expect(types(found)).toEqual(['restart_sink b', 'start_backfill b']);
  });
});

test('a sink does not move to another database under its name', () => {
  const two = WHOLE.replace(
    'databases: [',
    'databases: [{ name: e, url: "postgres://h/x", slot_name: t, publication_name: p }, ',
  );
  const applied = draft(two);
  const moved = draftOfText(two.replace('name: b, database: d', 'name: b, database: e'), {
    applied,
    outside: HERE,
    prune: true,
  });
  expect(moved).toMatchObject({ ok: false, problems: [{ line: 4, path: 'sinks[1].database' }] });
});

test('what stays and cannot is named, although it is in no line of the file', () => {
  const applied = draft(WHOLE);
  const found = draftOfText('functions: [{ name: f, type: transform, code: x }]', {
    applied,
    outside: HERE,
    prune: false,
  });
  expect(found).toEqual({
    ok: false,
    problems: [
      { line: 0, path: 'sinks "a".filter', text: 'names a function of type transform; it takes one of type filter' },
    ],
  });
});

test('a database that has another name now is told of the one that stays on its slot, by its name', () => {
  const database = (name: string) =>
    `databases: [{ name: ${name}, hostname: h, database: d, slot: { name: s }, publication: { name: p } }]`;
  const found = draftOfText(database('new'), { applied: draft(database('old')), outside: HERE, prune: false });
  expect(found).toMatchObject({
    ok: false,
    problems: [
      { line: 1, path: 'databases[0]', text: expect.stringMatching(/the database "old", .*applied now.*--prune/) },
    ],
  });
});

test('a file that is not there is named', () => {
  const found = draftOfText('databases: [{ name: a, password: "${file:pw.txt}" }]', {
    applied: NOTHING_APPLIED,
    outside: { ...HERE, file: gone },
    prune: true,
  });
  expect(found).toMatchObject({
    problems: expect.arrayContaining([
      expect.objectContaining({
        path: 'databases[0].password',
        text: '${file:pw.txt} cannot be read: there is no such file',
      }),
    ]),
  });
});

function gone(): never {
  throw Object.assign(new Error('gone'), { code: 'ENOENT' });
}

test('a name of an export that nothing is kept under is refused', () => {
  const found = draftOfText(WHOLE.replace('t0ken', '"${kept:sinks/nobody/password}"'), {
    applied: draft(WHOLE),
    outside: HERE,
    prune: true,
  });
  expect(found).toMatchObject({
    ok: false,
    problems: [{ text: expect.stringContaining('stands for a secret that an export left out') }],
  });
});

test('files that functions name become their code, and what comes with a request is all that is asked for', () => {
  const text =
    'functions:\n  - { name: f, type: filter, file: "${DIR}/f.ts" }\n  - { name: g, function: { type: filter, file: g.ts } }';
  const files: Record<string, string> = { '/etc/functions/f.ts': 'const f = `${x}`;', '/etc/g.ts': 'const g = 1;' };
  const options = {
    file: '/etc/millrace.yaml',
    env: { DIR: 'functions', UNUSED: 'x' },
    readText: (path: string) => files[path]!,
  };
  const sent = outsideOf(text, options);
  expect(sent).toEqual({
    variables: { DIR: 'functions' },
    files: { 'functions/f.ts': 'const f = `${x}`;', 'g.ts': 'const g = 1;' },
  });
  const from: References = { variable: (name) => sent.variables[name], file: (path) => sent.files[path]! };
  const applied = draft(text, NOTHING_APPLIED, from);
  expect(applied.source.blocks.functions).toEqual([
    { name: 'f', type: 'filter', code: 'const f = `${x}`;' },
    { name: 'g', function: { type: 'filter', code: 'const g = 1;' } },
  ]);
  expect(draft(exportYaml(applied.source, false), applied, NOWHERE).config.functions).toEqual(applied.config.functions);
});
