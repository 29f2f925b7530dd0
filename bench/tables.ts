/** Tables for people: on a terminal and in Markdown. */

export interface Table {
  readonly title: string;
  readonly header: readonly string[];
  readonly rows: readonly (readonly string[])[];
  readonly notes: readonly string[];
}

export function asText({ title, header, rows, notes }: Table): string {
  const widths = header.map((_, column) => Math.max(...[header, ...rows].map((row) => row[column]!.length)));
  const line = (row: readonly string[]) =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!))).join('  ');
  const rule = widths.map((width) => '-'.repeat(width)).join('  ');
  return [title, rule, line(header), rule, ...rows.map(line), ...notes, ''].join('\n');
}

export function asMarkdown({ title, header, rows, notes }: Table): string {
  const line = (row: readonly string[]) => `| ${row.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  const rule = `|${header.map((_, column) => (column === 0 ? '---' : '---:')).join('|')}|`;
  return [`### ${title}`, '', line(header), rule, ...rows.map(line), ...notes.map((note) => `\n${note}`), ''].join(
    '\n',
  );
}
