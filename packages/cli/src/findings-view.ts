import { styleText } from 'node:util';

/** Findings and statuses as people read them: aligned, in colour where the output is a terminal. */

export interface ShownFinding {
  readonly slug: string;
  readonly severity: string;
  readonly text: string;
  readonly fix?: string | undefined;
}

type Style = Parameters<typeof styleText>[0];

const MARKS: Readonly<Record<string, readonly [string, Style]>> = {
  error: ['✗', ['red', 'bold']],
  warning: ['!', ['yellow', 'bold']],
  notice: ['·', 'dim'],
  ok: ['✓', ['green', 'bold']],
};

const STATUS_STYLES: Readonly<Record<string, Style>> = {
  healthy: 'green',
  streaming: 'green',
  running: 'green',
  waiting: 'green',
  paused: 'blue',
  disabled: 'dim',
  initializing: 'yellow',
  connecting: 'yellow',
  starting: 'yellow',
  warning: 'yellow',
  retrying: 'red',
  stale: 'red',
  failed: 'red',
  error: 'red',
};

/** Colour only where a person looks: styleText asks the stream, and NO_COLOR. */
export function paint(style: Style, text: string): string {
  return styleText(style, text, { stream: process.stdout });
}

export function paintStatus(status: string, text: string = status): string {
  const style = STATUS_STYLES[status];
  return style === undefined ? text : paint(style, text);
}

export function mark(kind: string): string {
  const [sign, style] = MARKS[kind] ?? MARKS.notice!;
  return paint(style, sign);
}

const TEXT_WIDTH = 100;

/** A finding with its fix, indented. */
export function renderFinding({ slug, severity, text, fix }: ShownFinding): string {
  const [first, ...rest] = wrap(text, TEXT_WIDTH);
  const lines = [`  ${mark(severity)} ${first ?? ''}`, ...rest.map((line) => `    ${line}`)];
  if (fix !== undefined) lines.push(...fix.split('\n').map((line) => paint('cyan', `      ${line}`)));
  lines.push(paint('dim', `    (${slug})`));
  return lines.join('\n');
}

/** Columns as wide as their widest cell; `paints` colours a cell after it was padded. */
export function renderTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  paints: (column: number, cell: string, padded: string) => string = (_column, _cell, padded) => padded,
): string {
  const widths = head.map((name, column) => Math.max(name.length, ...rows.map((row) => (row[column] ?? '').length)));
  const line = (cells: readonly string[], painted: boolean) =>
    cells
      .map((cell, column) => {
        const last = column === cells.length - 1;
        const padded = last ? cell : cell.padEnd(widths[column]!);
        return painted ? paints(column, cell, padded) : padded;
      })
      .join('  ');
  return [paint('dim', line(head, false)), ...rows.map((row) => line(row, true))].map((text) => `${text}\n`).join('');
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return line === '' ? lines : [...lines, line];
}

export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
