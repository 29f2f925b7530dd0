/**
 * A configuration as it was given: blocks with their references (`${VAR}`) unexpanded, and what these stood for when it
 * was applied. What runs is resolved from it; what is exported is it; a plan is the difference of two.
 */
import { mapTexts } from '../config-references.ts';

export const SECTIONS = ['databases', 'http_endpoints', 'functions', 'sinks'] as const;
export type Section = (typeof SECTIONS)[number];

export type RawBlock = Readonly<Record<string, unknown>>;

export interface ConfigSource {
  /** Names are unique in each; files that functions named have become their code. */
  readonly blocks: Readonly<Record<Section, readonly RawBlock[]>>;
  /** What `${NAME}` and `${file:path}` stood for: by `NAME` and `file:path`. */
  readonly references: Readonly<Record<string, string>>;
}

export const EMPTY_SOURCE: ConfigSource = {
  blocks: { databases: [], http_endpoints: [], functions: [], sinks: [] },
  references: {},
};

/** Keys that Sequin's export writes, and that say nothing. */
const IGNORED: Readonly<Record<Section, readonly string[]>> = {
  databases: [],
  http_endpoints: ['id'],
  functions: ['id'],
  sinks: ['id', 'health', 'active_backfill', 'active_backfills', 'consumer_start', 'message_kind'],
};

/** Where a block of a source stands in the document it came from. */
export type Origin = readonly [key: string, index: number];

export interface SourceBlocks {
  readonly blocks: Readonly<Record<Section, readonly RawBlock[]>>;
  readonly origins: Readonly<Record<Section, readonly Origin[]>>;
}

/** The blocks of a document that fits the schema: older names folded into the present ones. */
export function blocksOf(document: unknown): SourceBlocks {
  const root = (document ?? {}) as RawBlock;
  const blocks: Record<Section, RawBlock[]> = { databases: [], http_endpoints: [], functions: [], sinks: [] };
  const origins: Record<Section, Origin[]> = { databases: [], http_endpoints: [], functions: [], sinks: [] };
  for (const section of SECTIONS) {
    for (const key of section === 'functions' ? ['functions', 'transforms'] : [section]) {
      const list = root[key];
      if (!Array.isArray(list)) continue;
      list.forEach((block: unknown, index) => {
        blocks[section].push(meaningful(block, IGNORED[section]));
        origins[section].push([key, index]);
      });
    }
  }
  return { blocks, origins };
}

function meaningful(block: unknown, ignored: readonly string[]): RawBlock {
  const plain = mapTexts(block, [], (text) => text) as RawBlock;
  return Object.fromEntries(Object.entries(plain).filter(([key]) => !ignored.includes(key)));
}

/** As a document has it. */
export function documentOf(blocks: ConfigSource['blocks']): Record<string, unknown> {
  return Object.fromEntries(SECTIONS.map((section) => [section, blocks[section]]));
}
