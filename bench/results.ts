/** What is kept of a run: bench/results/latest.json, section by section, each from the last run that measured it. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BackfillNumbers } from './backfill.ts';
import type { DrainNumbers } from './drains.ts';
import type { GrowthNumbers } from './growth.ts';
import type { IsolationNumbers } from './isolation.ts';
import type { LargeSection } from './large.ts';
import type { LatencyNumbers } from './latency.ts';
import type { Machine } from './machine.ts';
import type { SinksNumbers } from './sinks.ts';
import type { SinksPushNumbers } from './sinks-push.ts';
import type { SourceNumbers } from './source.ts';
import type { StoreNumbers } from './store.ts';
import type { WritersNumbers } from './writers.ts';

export const SECTIONS = [
  'small',
  'one',
  'big',
  'latency',
  'store',
  'writers',
  'growth',
  'sinks',
  'sinks-push',
  'isolation',
  'source',
  'backfill',
  'large',
] as const;
export type SectionName = (typeof SECTIONS)[number];

export interface Measured<Numbers> {
  readonly at: string;
  /** Of the numbers of rows; claims are made from 1 only. */
  readonly scale: number;
  readonly machine: Machine;
  readonly postgres: { readonly version: string; readonly settings: Readonly<Record<string, string>> } | null;
  readonly numbers: Numbers;
}

export interface Results {
  readonly small?: Measured<DrainNumbers>;
  readonly one?: Measured<DrainNumbers>;
  readonly big?: Measured<DrainNumbers>;
  readonly latency?: Measured<LatencyNumbers>;
  readonly store?: Measured<StoreNumbers>;
  readonly writers?: Measured<WritersNumbers>;
  readonly growth?: Measured<GrowthNumbers>;
  readonly sinks?: Measured<SinksNumbers>;
  readonly 'sinks-push'?: Measured<SinksPushNumbers>;
  readonly isolation?: Measured<IsolationNumbers>;
  readonly source?: Measured<SourceNumbers>;
  readonly backfill?: Measured<BackfillNumbers>;
  readonly large?: Measured<LargeSection>;
}

const LATEST = fileURLToPath(new URL('results/latest.json', import.meta.url));

export function readLatest(): Results {
  return existsSync(LATEST) ? (JSON.parse(readFileSync(LATEST, 'utf8')) as Results) : {};
}

/** In the order of SECTIONS. */
export function merge(before: Results, now: Results): Results {
  const merged: Results = { ...before, ...now };
  return Object.fromEntries(SECTIONS.flatMap((name) => (name in merged ? [[name, merged[name]]] : [])));
}

export function writeResults(results: Results, file = LATEST): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(results, null, 2)}\n`);
}
