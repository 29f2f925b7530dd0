/**
 * The difference of two configurations: what changes, key by key, and what follows from it for what runs. Plan and apply
 * both go by it. Secrets are masked in it.
 */
import { createHmac } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import type { Config, DatabaseConfig, SinkConfig } from '../config.ts';
import { expandText } from '../config-references.ts';
import type { ConfigSource, RawBlock, Section } from './config-source.ts';
import { SECTIONS } from './config-source.ts';
import type { Applied, Kept } from './draft.ts';
import { maskedBlock } from './secrets.ts';

export type ResourceKind = 'database' | 'http_endpoint' | 'function' | 'sink';

const KINDS: Readonly<Record<Section, ResourceKind>> = {
  databases: 'database',
  http_endpoints: 'http_endpoint',
  functions: 'function',
  sinks: 'sink',
};

/** A value that is shown; absent where the key was not, or will not be. */
export interface KeyChange {
  /** `destination.basin`, `tables[0].name`. */
  readonly key: string;
  readonly old?: unknown;
  readonly new?: unknown;
  /** What cannot be seen: a secret, or what a reference stands for. */
  readonly note?: string;
}

export interface Change {
  readonly action: 'create' | 'update' | 'delete';
  readonly kind: ResourceKind;
  readonly name: string;
  readonly keys: readonly KeyChange[];
}

export type ActionType =
  | 'start_database'
  | 'restart_database'
  | 'stop_database'
  | 'create_slot'
  | 'create_publication'
  | 'start_sink'
  | 'restart_sink'
  | 'pause_sink'
  | 'stop_sink'
  | 'start_backfill';

export interface Action {
  readonly type: ActionType;
  /** Of the database or the sink. */
  readonly name: string;
  /** For people. */
  readonly text: string;
}

export interface Plan {
  readonly changes: readonly Change[];
  readonly actions: readonly Action[];
  /** What the document does not have and stays. */
  readonly kept: readonly { readonly kind: ResourceKind; readonly name: string }[];
  readonly warnings: readonly string[];
  /** Of both sides. Apply takes it, and refuses when either is another by then. */
  readonly fingerprint: string;
}

/** `key`: of this process, so that a fingerprint tells nothing about a secret. */
export function planOf(now: Applied, next: Applied & { readonly kept: readonly Kept[] }, key: Uint8Array): Plan {
  return {
    changes: changesOf(now.source, next.source),
    actions: actionsOf(now.config, next.config),
    kept: next.kept.map(({ section, name }) => ({ kind: KINDS[section], name })),
    warnings: next.config.warnings,
    fingerprint: fingerprintOf([now.source, next.source], key),
  };
}

export function fingerprintOf(value: unknown, key: Uint8Array): string {
  return createHmac('sha256', key).update(canonical(value)).digest('hex').slice(0, 32);
}

/** JSON with keys in order. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)))
      : inner,
  );
}

export function changesOf(now: ConfigSource, next: ConfigSource): Change[] {
  return SECTIONS.flatMap((section) => {
    const kind = KINDS[section];
    const before = named(now, section);
    const after = named(next, section);
    const changes: Change[] = [];
    for (const [name, block] of after) {
      const old = before.get(name);
      const keys = keyChanges(section, old ?? null, block, now, next);
      if (old === undefined) changes.push({ action: 'create', kind, name, keys });
      else if (keys.length > 0) changes.push({ action: 'update', kind, name, keys });
    }
    for (const [name, block] of before) {
      if (after.has(name)) continue;
      changes.push({ action: 'delete', kind, name, keys: keyChanges(section, block, null, now, next) });
    }
    return changes;
  });
}

export function nameOf(source: ConfigSource, block: RawBlock): string {
  return expanded(String(block.name ?? ''), source);
}

function named(source: ConfigSource, section: Section): Map<string, RawBlock> {
  return new Map(source.blocks[section].map((block) => [nameOf(source, block), block]));
}

function expanded(text: string, { references }: ConfigSource): string {
  return expandText(
    text,
    { variable: (name) => references[name], file: (path) => references[`file:${path}`] ?? '' },
    () => {},
  );
}

function keyChanges(
  section: Section,
  old: RawBlock | null,
  fresh: RawBlock | null,
  now: ConfigSource,
  next: ConfigSource,
): KeyChange[] {
  const before = leaves(old);
  const after = leaves(fresh);
  const shownBefore = leaves(old === null ? null : maskedBlock(section, old));
  const shownAfter = leaves(fresh === null ? null : maskedBlock(section, fresh));
  const changes: KeyChange[] = [];
  for (const key of new Set([...before.keys(), ...after.keys()])) {
    const was = before.get(key);
    const is = after.get(key);
    const shown = {
      key,
      ...(before.has(key) && { old: shownBefore.get(key) }),
      ...(after.has(key) && { new: shownAfter.get(key) }),
    };
    if (canonical(was) !== canonical(is)) {
      const same = before.has(key) && after.has(key) && canonical(shown.old) === canonical(shown.new);
      changes.push(same ? { ...shown, note: 'another secret' } : shown);
    } else if (meaning(key, was, now) !== meaning(key, is, next)) {
      changes.push({ ...shown, note: 'what it refers to is another' });
    }
  }
  return changes;
}

/** What a value comes to; nothing is referred to in code. */
function meaning(key: string, value: unknown, source: ConfigSource): string {
  if (/(?:^|\.)code$/.test(key)) return '';
  return canonical(value).replace(/\$\{[^}]*\}/g, (reference) => expanded(reference, source));
}

/** By key, what is no block: texts, numbers, and lists of these. Null is as not given. */
function leaves(block: RawBlock | null): Map<string, unknown> {
  const found = new Map<string, unknown>();
  const walk = (value: unknown, key: string): void => {
    if (value === null || value === undefined) return;
    if (Array.isArray(value) && value.some((item) => typeof item === 'object' && item !== null)) {
      for (const [index, item] of value.entries()) walk(item, `${key}[${index}]`);
    } else if (typeof value === 'object' && !Array.isArray(value) && Object.keys(value).length > 0) {
      for (const [inner, item] of Object.entries(value)) walk(item, key === '' ? inner : `${key}.${inner}`);
    } else found.set(key, value);
  };
  if (block !== null) walk(block, '');
  return found;
}

/** What happens to what runs. What is not among these does not notice. */
export interface Effects {
  readonly databases: {
    readonly added: readonly DatabaseConfig[];
    /** Started anew, with all of their sinks. */
    readonly changed: readonly DatabaseConfig[];
    readonly removed: readonly DatabaseConfig[];
  };
  readonly sinks: {
    readonly added: readonly SinkConfig[];
    readonly changed: readonly { readonly before: SinkConfig; readonly after: SinkConfig }[];
    readonly removed: readonly SinkConfig[];
  };
}

export function effectsOf(now: Config, next: Config): Effects {
  const databases = compare(now.databases, next.databases);
  return {
    databases: { ...databases, changed: databases.changed.map(({ after }) => after) },
    sinks: compare(now.sinks, next.sinks),
  };
}

/** Functions and endpoints are part of the sinks that name them. */
function compare<T extends { readonly name: string }>(now: readonly T[], next: readonly T[]) {
  const before = new Map(now.map((one) => [one.name, one]));
  const names = new Set(next.map(({ name }) => name));
  return {
    added: next.filter(({ name }) => !before.has(name)),
    changed: next.flatMap((after) => {
      const old = before.get(after.name);
      return old === undefined || isDeepStrictEqual(old, after) ? [] : [{ before: old, after }];
    }),
    removed: now.filter(({ name }) => !names.has(name)),
  };
}

export function actionsOf(now: Config, next: Config): Action[] {
  const { databases, sinks } = effectsOf(now, next);
  const restarted = new Set([...databases.added, ...databases.changed].map(({ name }) => name));
  return [
    ...databases.added.flatMap((database) => [
      ...preparations(database),
      action('start_database', database.name, `start to capture database "${database.name}"`),
    ]),
    ...databases.changed.flatMap((database) => [
      ...preparations(database),
      action('restart_database', database.name, `start database "${database.name}" and all of its sinks anew`),
    ]),
    ...databases.removed.map(({ name, slot }) =>
      action(
        'stop_database',
        name,
        `stop database "${name}"; its slot "${slot.name}" stays on the server and holds WAL until somebody drops it`,
      ),
    ),
    ...sinks.added.flatMap((sink) => startOf(sink, 'start_sink', 'start')),
    ...sinks.changed.flatMap(({ before, after }) => changeOf(before, after, restarted.has(after.database))),
    ...sinks.removed.map(({ name }) => action('stop_sink', name, `stop sink "${name}" and forget its position`)),
  ];
}

function action(type: ActionType, name: string, text: string): Action {
  return { type, name, text };
}

function preparations({ name, slot, publication }: DatabaseConfig): Action[] {
  return [
    ...(publication.createIfNotExists
      ? [action('create_publication', name, `make publication "${publication.name}" if it is not there`)]
      : []),
    ...(slot.createIfNotExists ? [action('create_slot', name, `make slot "${slot.name}" if it is not there`)] : []),
  ];
}

function startOf(sink: SinkConfig, type: ActionType, verb: string): Action[] {
  if (sink.status === 'disabled') return [];
  const paused = sink.status === 'paused' ? ', paused' : '';
  return [action(type, sink.name, `${verb} sink "${sink.name}"${paused}`), ...backfillOf(sink)];
}

function backfillOf({ name, initialBackfill }: SinkConfig): Action[] {
  if (initialBackfill === false || (Array.isArray(initialBackfill) && initialBackfill.length === 0)) return [];
  const tables =
    initialBackfill === true ? 'every table it takes' : `${(initialBackfill as readonly unknown[]).length} tables`;
  return [action('start_backfill', name, `backfill ${tables} for sink "${name}", each once`)];
}

function changeOf(before: SinkConfig, after: SinkConfig, databaseRestarts: boolean): Action[] {
  const { name } = after;
  const backfills = isDeepStrictEqual(before.initialBackfill, after.initialBackfill) ? [] : backfillOf(after);
  if (before.status === 'disabled' && after.status !== 'disabled') return startOf(after, 'start_sink', 'start');
  if (after.status === 'disabled') {
    return before.status === 'disabled'
      ? []
      : [action('stop_sink', name, `stop sink "${name}" and forget its position`)];
  }
  if (before.status !== after.status && after.status === 'paused') {
    return [action('pause_sink', name, `pause sink "${name}"`), ...backfills];
  }
  // It is started with its database anyway.
  return databaseRestarts
    ? backfills
    : [action('restart_sink', name, `start sink "${name}" anew, from where it is`), ...backfills];
}
