/**
 * Writes docs/errors.md from packages/core/src/error.ts: `node tools/generate-error-docs.ts` (bundled Node 24).
 * test/docs/errors.test.ts fails when the page is not what this makes.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { assert } from '@millrace/core/assert';
import { codes, type ErrorCode, type Retry } from '@millrace/core/error';

const SOURCE = new URL('../packages/core/src/error.ts', import.meta.url);
export const ERRORS_PAGE = new URL('../docs/errors.md', import.meta.url);

const HANDLING: Readonly<Record<Retry, string>> = {
  never: 'Not tried again: the request is wrong and stays wrong.',
  reconnect: 'Millrace opens a new connection and goes on from where it was.',
  backoff: 'Millrace tries again, after 0.1 s at first and 10 s at most.',
  operator: 'A person has to change something.',
};

interface Section {
  readonly title: string;
  readonly codes: ErrorCode[];
}

/** The comments between the codes are the sections of the page. */
function sections(): Section[] {
  const text = readFileSync(SOURCE, 'utf8');
  const table = text.slice(text.indexOf('export const codes = {'), text.indexOf('} as const satisfies'));
  const found: Section[] = [];
  for (const line of table.split('\n')) {
    const title = /^ {2}\/\/ (.+)$/.exec(line)?.[1];
    if (title !== undefined) found.push({ title, codes: [] });
    const code = /^ {2}(\w+): \{/.exec(line)?.[1];
    if (code === undefined) continue;
    assert(found.length > 0 && Object.hasOwn(codes, code), 'each code of the table stands below a comment');
    found.at(-1)!.codes.push(code as ErrorCode);
  }
  const listed = found.flatMap((section) => section.codes);
  assert(listed.length === Object.keys(codes).length, 'every code is in a section');
  return found;
}

export function errorsPage(): string {
  const lines = [
    '# Errors',
    '',
    '<!-- Made by tools/generate-error-docs.ts from packages/core/src/error.ts. Do not edit. -->',
    '',
    'A failure is printed as a sentence, what this case is about, what to do, and a code in parentheses. The code is stable:',
    'scripts may depend on it, not on the text. Errors of the S2 HTTP API have the codes of S2 and are not listed here.',
    '',
    'What Millrace does by itself depends on the class of the code:',
    '',
    '| class | what happens |',
    '|---|---|',
    ...Object.entries(HANDLING).map(([retry, text]) => `| \`${retry}\` | ${text} |`),
    '',
    'At the first start of a single database, everything but `reconnect` and `backoff` ends the process with exit code 1, and',
    'those do so after `await_database.timeout_ms`. With several databases, and later in any case, the database or sink that',
    'meets the failure says why on stderr and in its health, and tries again every 2 to 30 s; all else goes on. `storage_full`',
    'and `storage_failed` end the process wherever they are met, because nothing can be promised after a failed write.',
    '',
    '`internal` names what caused it by class, code and place, as `ReplyError (ERR_X), at node_modules/...`: enough to search for, and to',
    'report. Its text is not told, here or in a log, because a library may quote in it what it was given: a row, or a password.',
    '',
  ];
  for (const section of sections()) {
    lines.push(`## ${section.title}`, '', '| code | class | meaning |', '|---|---|---|');
    for (const code of section.codes) lines.push(`| \`${code}\` | ${codes[code].retry} | ${codes[code].text} |`);
    lines.push('');
  }
  return lines.join('\n');
}

if (argv[1] === fileURLToPath(import.meta.url)) writeFileSync(ERRORS_PAGE, errorsPage());
