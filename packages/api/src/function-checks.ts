/** What a schema of single values cannot say about functions, and about the sinks that name them. */
import { sinkKind } from '@millrace/sinks/sink-kinds';
import type { Path } from './config-document.ts';
import { isFunctionName } from './config-sink.ts';
import { looksLikeElixir } from './elixir.ts';
import { nearest } from './nearest.ts';
import { type Block, block, given, list, meant, type Report } from './raw-block.ts';
import { DESTINATION_TYPES, LATER_DESTINATIONS } from './sink-schema.ts';

const FUNCTION_LISTS = ['functions', 'transforms'] as const;

/** By name, what is known of each. */
export type FunctionNames = ReadonlyMap<string, { readonly type: unknown; readonly sinkType: unknown }>;

export function functionNames(root: unknown): FunctionNames {
  const names = new Map<string, { type: unknown; sinkType: unknown }>();
  for (const key of FUNCTION_LISTS) {
    for (const one of list(block(root)?.[key])) {
      const { type, sink_type: sinkType } = bodyOf(one);
      if (typeof one.name === 'string') names.set(one.name, { type, sinkType });
    }
  }
  return names;
}

function bodyOf(one: Block): Block {
  return block(one.function) ?? block(one.transform) ?? one;
}

export function checkFunctions(root: unknown, lineOf: (path: Path) => number, report: Report): void {
  const first = new Map<string, Path>();
  for (const key of FUNCTION_LISTS) {
    list(block(root)?.[key]).forEach((one, index) => {
      const path = [key, index];
      if (typeof one.name === 'string') {
        const earlier = first.get(one.name);
        if (earlier === undefined) first.set(one.name, path);
        else {
          const place = `${earlier[0]}[${earlier[1]}] (line ${lineOf([...earlier, 'name'])})`;
          report([...path, 'name'], `is already the name of ${place}`);
        }
      }
      checkFunction(one, path, report);
    });
  }
}

function checkFunction(one: Block, path: Path, report: Report): void {
  const older = ['function', 'transform'].find((key) => given(one[key]));
  const inner = older === undefined ? path : [...path, older];
  if (older !== undefined) {
    for (const key of ['type', 'sink_type', 'code', 'path', 'file']) {
      if (given(one[key])) report([...path, key], `cannot stand next to ${older}, which is the older form of it`);
    }
  }
  const body = bodyOf(one);
  const { type } = body;
  if (!given(type)) report(inner, 'type is required: filter, transform, routing, enrichment or path');
  const wanted = type === 'path' ? ['path'] : ['code', 'file'];
  const has = ['code', 'path', 'file'].filter((key) => given(body[key]));
  const wrong = has.filter((key) => !wanted.includes(key));
  for (const key of wrong) report([...inner, key], `is not taken with this type; give ${wanted.join(' or ')}`);
  if (has.length === 0 && given(type)) report(inner, `${wanted.join(' or ')} is required`);
  if (given(body.code) && given(body.file)) report([...inner, 'file'], 'cannot stand next to code');
  if (type === 'path' && typeof body.path === 'string' && !PATH.test(body.path)) {
    report([...inner, 'path'], 'must be record, changes, action or metadata, then keys, each after a dot');
  }
  checkSinkType(type, body.sink_type, inner, report);
  if (given(one.cache) && type !== 'enrichment') report([...path, 'cache'], 'is taken with type enrichment only');
  if (typeof body.code === 'string' && type !== 'enrichment' && looksLikeElixir(body.code)) {
    report([...inner, 'code'], `is Elixir, which is not run here; write it in TypeScript: ${inTypeScript(type)}`);
  }
}

const PATH = /^(record|changes|action|metadata)(\.[^.\s]+)*$/;

function checkSinkType(type: unknown, sinkType: unknown, path: Path, report: Report): void {
  if (type !== 'routing') {
    if (given(sinkType)) report([...path, 'sink_type'], 'is taken with type routing only');
    return;
  }
  if (!given(sinkType)) report(path, 'sink_type is required: the type of destination it finds routes for');
  else if (typeof sinkType === 'string' && !isDestination(sinkType) && !LATER_DESTINATIONS.includes(sinkType)) {
    report([...path, 'sink_type'], `must be one of: ${DESTINATION_TYPES.join(', ')}`);
  }
}

function isDestination(type: string): boolean {
  return type === 's2' || sinkKind(type) !== undefined;
}

const FORMS: Readonly<Record<string, string>> = {
  filter: 'export function filter(action, record, changes, metadata) { return record.status === "paid"; }',
  transform: 'export function transform(action, record, changes, metadata) { return { id: record.id }; }',
  routing: 'export function route(action, record, changes, metadata) { return { stream: metadata.table_name }; }',
};

function inTypeScript(type: unknown): string {
  return `${FORMS[String(type)] ?? FORMS.transform} (docs/from-sequin.md shows how)`;
}

/** Each key of a sink, and the types of functions it takes. */
const KEYS: readonly [key: string, types: readonly string[]][] = [
  ['filter', ['filter']],
  ['transform', ['transform', 'path']],
  ['routing', ['routing']],
  ['enrichment', ['enrichment']],
];

export function checkSinkFunctions(sink: Block, functions: FunctionNames, path: Path, report: Report): void {
  const target = block(sink.destination);
  const destination = target?.type;
  if (destination === 's2' && !isFunctionName(sink.routing)) {
    for (const key of ['basin', 'stream']) {
      if (target?.[key] == null) report([...path, 'destination', key], 'is required without a routing function');
    }
  }
  for (const [key, types] of KEYS) {
    const name = sink[key];
    if (!isFunctionName(name)) continue;
    const found = functions.get(name);
    if (found === undefined) {
      const near = nearest(name, [...functions.keys()]);
      report([...path, key], `is not the name of one of functions${meant(near)}`);
    } else if (typeof found.type === 'string' && !types.includes(found.type)) {
      report([...path, key], `names a function of type ${found.type}; it takes one of type ${types.join(' or ')}`);
    } else if (key === 'routing' && typeof destination === 'string') {
      const kind = sinkKind(destination);
      if (kind?.routing === null) report([...path, key], `is not taken by destinations of type ${destination}`);
      else if (!sameType(found.sinkType, destination)) {
        report([...path, key], 'names a function whose sink_type is not the type of this destination');
      }
    }
  }
}

function sameType(a: unknown, b: string): boolean {
  if (typeof a !== 'string') return true;
  return (sinkKind(a)?.type ?? a) === (sinkKind(b)?.type ?? b);
}
