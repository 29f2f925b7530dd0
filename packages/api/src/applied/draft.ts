/**
 * From what somebody gives (a file, or an edit of one resource) and what is applied now to what would be applied then:
 * merged by name, checked as a whole, resolved. Changes nothing.
 */
import { type Config, configOf, invalid, NO_CONFIG, parseKeys } from '../config.ts';
import { formatPath, type Path, type Problem, parseConfigDocument } from '../config-document.ts';
import { expandReferences, expandText, type References } from '../config-references.ts';
import { readFailure } from '../read-failure.ts';
import {
  blocksOf,
  type ConfigSource,
  documentOf,
  EMPTY_SOURCE,
  type Origin,
  type RawBlock,
  SECTIONS,
  type Section,
  type SourceBlocks,
} from './config-source.ts';
import { masksIn, withKeptSecrets } from './secrets.ts';

/** A configuration as it was given, and what it comes to. */
export interface Applied {
  readonly source: ConfigSource;
  readonly config: Config;
}

export const NOTHING_APPLIED: Applied = { source: EMPTY_SOURCE, config: NO_CONFIG };

/** A resource that the document does not have and that stays. */
export interface Kept {
  readonly section: Section;
  readonly name: string;
}

export type Draft =
  | ({ readonly ok: true; readonly kept: readonly Kept[]; readonly codeFiles: CodeFiles } & Applied)
  | { readonly ok: false; readonly problems: readonly Problem[] };

/** By the name of a function, the file that the document names for its code. */
export type CodeFiles = ReadonlyMap<string, string>;

export interface DraftOptions {
  readonly applied: Applied;
  /** What the document refers to and does not hold, as it is where it was written. */
  readonly outside: References;
  /** What the document does not have goes. */
  readonly prune: boolean;
}

export function draftOfText(text: string, options: DraftOptions): Draft {
  const document = parseConfigDocument(text);
  if (document.problems.length > 0) return { ok: false, problems: document.problems };
  if (document.value === null) return { ok: false, problems: [{ line: 1, path: '', text: 'the file is empty' }] };
  return draftOfDocument(document.value, document.lineOf, options);
}

/** `given`: plain values with their references, as a document has them. */
export function draftOfDocument(given: unknown, lineOf: (path: Path) => number, options: DraftOptions): Draft {
  const { applied, outside, prune } = options;
  const problems = new Map<string, Problem>();
  const report = (path: Path, text: string): void => {
    const problem = { line: lineOf(path), path: formatPath(path), text };
    problems.set(JSON.stringify(problem), problem);
  };
  const used = new Map<string, string>();
  const references = layered(outside, applied.source.references, used);
  const document = withKeptSecrets(given, applied.source);
  parseKeys(expandReferences(document, references, report), report);
  if (!isMergeable(document)) return { ok: false, problems: [...problems.values()] };

  const nameOf = (block: RawBlock) => expandText(String(block.name ?? ''), references, () => {});
  const codeFiles = new Map<string, string>();
  const own = withFiles(blocksOf(document), references, report, (block, file) => codeFiles.set(nameOf(block), file));
  const merged = merge(own, applied.source, nameOf, prune);
  const place = placesOf(merged, nameOf);
  used.clear();
  const whole = { ...beside(document), ...documentOf(merged.blocks) };
  const reportPlace = (path: Path, text: string): void => {
    const [given, named] = place(path);
    if (given !== null) report(given, text);
    else problems.set(`${named}: ${text}`, { line: 0, path: named, text });
  };
  const config = configOf(expandReferences(whole, references, reportPlace), {
    readText: (path) => references.file(path),
    // Of what stays, none.
    lineOf: (path) => {
      const [given] = place(path);
      return given === null ? 0 : lineOf(given);
    },
    report: reportPlace,
  });
  for (const section of SECTIONS) {
    merged.blocks[section].forEach((block, index) => {
      for (const path of masksIn(section, block)) reportPlace([section, index, ...path], MASKED);
    });
  }
  if (config !== null) refuseMoves(applied.config, config, merged, reportPlace);
  if (config === null || problems.size > 0) return { ok: false, problems: [...problems.values()] };
  const source = { blocks: merged.blocks, references: Object.fromEntries(used) };
  return { ok: true, source, config, kept: merged.kept, codeFiles };
}

const MASKED = 'is what stands for a secret where it is not shown; give the secret, or a reference to it';

/** What was applied before, resolved anew. Throws config_invalid: this version takes less, or something is broken. */
export function configOfSource(source: ConfigSource, file: string): Config {
  const problems: Problem[] = [];
  const report = (path: Path, text: string): void => {
    problems.push({ line: 0, path: formatPath(path), text });
  };
  const references = layered({ variable: () => undefined, file: missing }, source.references, new Map());
  const config = configOf(expandReferences(documentOf(source.blocks), references, report), {
    readText: missing,
    lineOf: () => 0,
    report,
  });
  if (config === null || problems.length > 0) throw invalid(file, problems);
  return config;
}

function missing(): never {
  throw Object.assign(new Error('not there'), { code: 'ENOENT' });
}

/** As things are outside, else as they were when they were applied. What is used is noted. */
function layered(outside: References, before: ConfigSource['references'], used: Map<string, string>): References {
  const note = (key: string, value: string): string => {
    used.set(key, value);
    return value;
  };
  return {
    variable(name) {
      const value = outside.variable(name) ?? before[name];
      return value === undefined ? undefined : note(name, value);
    },
    file(path) {
      const key = `file:${path}`;
      try {
        return note(key, outside.file(path));
      } catch (error) {
        if (before[key] === undefined) throw error;
        return note(key, before[key]);
      }
    },
  };
}

/** What is no block, list or block with a name cannot be merged; the schema has said so. */
function isMergeable(document: unknown): document is RawBlock {
  if (!isBlock(document)) return false;
  return [...SECTIONS, 'transforms'].every((key) => {
    const list = document[key];
    return list === undefined || list === null || (Array.isArray(list) && list.every(isBlock));
  });
}

function isBlock(value: unknown): value is RawBlock {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Keys of the document that are no lists of resources. */
function beside(document: RawBlock): RawBlock {
  const sections: readonly string[] = [...SECTIONS, 'transforms'];
  return Object.fromEntries(Object.entries(document).filter(([key]) => !sections.includes(key)));
}

/** The files that blocks name become part of them: what is applied has to run without them. */
function withFiles(
  given: SourceBlocks,
  references: References,
  report: (path: Path, text: string) => void,
  hadFile: (block: RawBlock, file: string) => void,
): SourceBlocks {
  const read = (text: string, path: Path): string | null => {
    try {
      return references.file(expandText(text, references, () => {}));
    } catch (error) {
      report(path, `cannot be read: ${readFailure(error)}`);
      return null;
    }
  };
  const functions = given.blocks.functions.map((block, index) => {
    const inner = ['function', 'transform'].find((key) => isBlock(block[key]));
    const body = inner === undefined ? block : (block[inner] as RawBlock);
    if (typeof body.file !== 'string' || body.code != null) return block;
    const [key, at] = given.origins.functions[index]!;
    const code = read(body.file, [key, at, ...(inner === undefined ? [] : [inner]), 'file']);
    if (code === null) return block;
    hadFile(block, body.file);
    const { file: _file, ...rest } = body;
    return inner === undefined ? { ...rest, code } : { ...block, [inner]: { ...rest, code } };
  });
  const databases = given.blocks.databases.map((block, index) => {
    const path = block.ssl_root_cert;
    if (typeof path !== 'string' || path.includes('-----BEGIN') || path.includes('${file:')) return block;
    const pem = read(path, ['databases', index, 'ssl_root_cert']);
    return pem === null ? block : { ...block, ssl_root_cert: pem };
  });
  return { ...given, blocks: { ...given.blocks, functions, databases } };
}

interface Merged {
  readonly blocks: ConfigSource['blocks'];
  readonly origins: Readonly<Record<Section, readonly (Origin | null)[]>>;
  readonly kept: readonly Kept[];
}

/** What has a name that is there takes its place; the rest comes after. */
function merge(own: SourceBlocks, before: ConfigSource, nameOf: (block: RawBlock) => string, prune: boolean): Merged {
  const blocks: Record<string, readonly RawBlock[]> = {};
  const origins: Record<string, readonly (Origin | null)[]> = {};
  const kept: Kept[] = [];
  for (const section of SECTIONS) {
    const mine = own.blocks[section].map((block, index) => ({ block, origin: own.origins[section][index] ?? null }));
    const names = new Set(mine.map(({ block }) => nameOf(block)));
    const staying = prune ? [] : before.blocks[section].filter((block) => !names.has(nameOf(block)));
    kept.push(...staying.map((block) => ({ section, name: nameOf(block) })));
    // In the order of before, so that a file that changes nothing changes no order either.
    const rank = new Map(before.blocks[section].map((block, index) => [nameOf(block), index]));
    const all = [...staying.map((block) => ({ block, origin: null })), ...mine];
    const at = ({ block }: { block: RawBlock }) => rank.get(nameOf(block)) ?? Number.MAX_SAFE_INTEGER;
    if (!prune) all.sort((a, b) => at(a) - at(b));
    blocks[section] = all.map(({ block }) => block);
    origins[section] = all.map(({ origin }) => origin);
  }
  return { blocks: blocks as Merged['blocks'], origins: origins as Merged['origins'], kept };
}

/** From a path of the merged document to the one of the document that was given, or to a name when it is in none. */
function placesOf({ blocks, origins }: Merged, nameOf: (block: RawBlock) => string) {
  return ([section, index, ...rest]: Path): readonly [given: Path | null, named: string] => {
    const list = origins[section as Section];
    if (list === undefined || typeof index !== 'number') return [section === undefined ? [] : [section], ''];
    const origin = list[index];
    if (origin != null) return [[...origin, ...rest], ''];
    const block = blocks[section as Section][index];
    const inner = rest.length === 0 ? '' : `.${formatPath(rest)}`;
    return [null, `${section} "${block === undefined ? '' : nameOf(block)}"${inner}`];
  };
}

/** The positions of a sink are of one source: under the same name it cannot read another. */
function refuseMoves(before: Config, next: Config, merged: Merged, report: (path: Path, text: string) => void): void {
  const databases = new Map(before.sinks.map(({ name, database }) => [name, database]));
  next.sinks.forEach(({ name, database }, index) => {
    const was = databases.get(name);
    if (was === undefined || was === database || merged.blocks.sinks[index] === undefined) return;
    report(
      ['sinks', index, 'database'],
      'cannot become another: the position of a sink belongs to its database; give the sink another name',
    );
  });
}
