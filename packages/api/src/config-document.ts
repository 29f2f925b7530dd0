import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseDocument,
  type YAMLMap,
} from 'yaml';

/**
 * From YAML text to plain values, with the line of every value kept. Anchors, aliases and merge keys (`<<`) work as in
 * sequin.yaml files; references (`${VAR}`) stay as they are: see config-references.ts. Problems never quote the text: a
 * value may be a secret (I11).
 */

export type Path = readonly (string | number)[];

export interface Problem {
  /** 0: in no document. */
  readonly line: number;
  readonly path: string;
  readonly text: string;
}

export interface ConfigDocument {
  readonly value: unknown;
  /** 1-based line of the value at `path`, or of its nearest ancestor that the file has. */
  lineOf(path: Path): number;
  readonly problems: readonly Problem[];
}

/** Aliases can multiply a small file into a huge value ("billion laughs"). */
export const CONFIG_VALUES_MAX = 200_000;

const SYNTAX: Record<string, string> = {
  BAD_DQ_ESCAPE: 'an escape in a double-quoted text is not valid; use single quotes, or double the backslash',
  BAD_INDENT: 'the indentation is wrong, or a bracket is not closed',
  BAD_SCALAR_START: 'a value that starts with this character needs quotes',
  BLOCK_AS_IMPLICIT_KEY: 'the indentation is wrong, or a value with ": " in it needs quotes',
  DUPLICATE_KEY: 'the same key stands twice in one block',
  MISSING_CHAR: 'a quote, bracket, comma or colon is missing',
  MULTILINE_IMPLICIT_KEY: 'a colon is missing after the key, or the indentation is wrong',
  MULTIPLE_DOCS: 'one file holds one document; remove the second "---"',
  TAB_AS_INDENT: 'indent with spaces, not with tabs',
};

export function parseConfigDocument(text: string): ConfigDocument {
  const lineCounter = new LineCounter();
  // The library's pretty errors quote the source.
  const document = parseDocument(text, { lineCounter, prettyErrors: false, merge: true, logLevel: 'silent' });
  const lineAt = (offset: number): number => Math.max(1, lineCounter.linePos(offset).line);
  const problems: Problem[] = document.errors.map(({ code, pos }) => ({
    line: lineAt(pos[0]),
    path: '',
    text: SYNTAX[code] ?? `not valid YAML (${code.toLowerCase().replaceAll('_', ' ')})`,
  }));
  const lines = new Map<string, number>();
  const walk = new Walk(document, lineAt, lines, problems);
  // A tree with syntax errors is a guess of the parser; what it lacks would be reported as missing.
  const value = problems.length === 0 ? walk.node(document.contents, []) : undefined;
  const lineOf = (path: Path): number => {
    for (let length = path.length; length > 0; length--) {
      const line = lines.get(formatPath(path.slice(0, length)));
      if (line !== undefined) return line;
    }
    return 1;
  };
  return { value, lineOf, problems };
}

/** `sinks[0].destination.basin` */
export function formatPath(path: Path): string {
  let text = '';
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`;
    else if (/^[\w-]+$/.test(part)) text += text === '' ? part : `.${part}`;
    else text += `[${JSON.stringify(part)}]`;
  }
  return text;
}

class Walk {
  private readonly document: Document;
  private readonly lineAt: (offset: number) => number;
  private readonly lines: Map<string, number>;
  private readonly problems: Problem[];
  private readonly open = new Set<Node>();
  private readonly targets = new Map<Node, Node>();
  private values = 0;

  constructor(document: Document, lineAt: (offset: number) => number, lines: Map<string, number>, problems: Problem[]) {
    this.document = document;
    this.lineAt = lineAt;
    this.lines = lines;
    this.problems = problems;
  }

  node(node: unknown, path: Path): unknown {
    const target = this.follow(node, path);
    if (target === null) return null;
    const line = this.lineAt(target.range?.[0] ?? 0);
    // A key's own line is the better one for a block; only what has none (list items, the root) takes the value's.
    const key = formatPath(path);
    if (!this.lines.has(key)) this.lines.set(key, line);
    if (++this.values > CONFIG_VALUES_MAX) {
      if (this.values === CONFIG_VALUES_MAX + 1) this.problem(line, path, 'aliases make this file too large');
      return null;
    }
    if (this.open.has(target)) {
      this.problem(line, path, 'this block contains itself through an alias');
      return null;
    }
    this.open.add(target);
    const value = this.plain(target, line, path);
    this.open.delete(target);
    return value;
  }

  private plain(node: Node, line: number, path: Path): unknown {
    if (isMap(node)) {
      const target: Record<string, unknown> = Object.create(null);
      this.map(node, path, target);
      return target;
    }
    if (isSeq(node)) return node.items.map((item, index) => this.node(item, [...path, index]));
    if (!isScalar(node)) return null;
    if (typeof node.value === 'number' && Number.isInteger(node.value) && !Number.isSafeInteger(node.value)) {
      this.problem(line, path, 'this number is not exact here; put it in quotes');
      return null;
    }
    if (node.value === null || ['string', 'number', 'boolean'].includes(typeof node.value)) return node.value;
    this.problem(line, path, 'only text, numbers, true, false, lists and blocks are allowed here');
    return null;
  }

  /** Keys of the block win over merged ones, wherever `<<` stands; of several merged blocks the first wins. */
  private map(node: YAMLMap, path: Path, target: Record<string, unknown>): void {
    const merged: unknown[] = [];
    for (const { key, value } of node.items) {
      const name = this.follow(key, path);
      const line = this.lineAt(name?.range?.[0] ?? node.range?.[0] ?? 0);
      if (!isScalar(name) || typeof name.value === 'object') {
        this.problem(line, path, 'a key must be plain text');
      } else if ((name.value === '<<' && name.type === 'PLAIN') || typeof name.value === 'symbol') {
        merged.push(value);
      } else if (!(String(name.value) in target)) {
        const inner = [...path, String(name.value)];
        this.lines.set(formatPath(inner), line);
        target[String(name.value)] = this.node(value, inner);
      }
    }
    for (const source of merged) this.merge(source, path, target);
  }

  private merge(source: unknown, path: Path, target: Record<string, unknown>): void {
    const node = this.follow(source, path);
    if (isMap(node)) {
      if (this.open.has(node)) this.problem(this.lineAt(node.range?.[0] ?? 0), path, 'this block merges itself');
      else {
        this.open.add(node);
        this.map(node, path, target);
        this.open.delete(node);
      }
    } else if (isSeq(node)) {
      for (const item of node.items) this.merge(item, path, target);
    } else {
      this.problem(this.lineAt(node?.range?.[0] ?? 0), path, '"<<" takes an alias of a block, or a list of them');
    }
  }

  private follow(node: unknown, path: Path): Node | null {
    if (!isAlias(node)) return (node ?? null) as Node | null;
    // Resolving searches the whole document, and nested aliases lead here over and over.
    let target = this.targets.get(node);
    if (target === undefined) {
      target = node.resolve(this.document);
      if (target !== undefined) this.targets.set(node, target);
    }
    if (target === undefined) {
      this.problem(this.lineAt(node.range?.[0] ?? 0), path, 'an alias (*name) has no anchor (&name) before it');
    }
    return target ?? null;
  }

  private problem(line: number, path: Path, text: string): void {
    this.problems.push({ line, path: formatPath(path), text });
  }
}
