/**
 * Writes docs/types.md from the golden table of the tests: `node tools/generate-types-docs.ts` (bundled Node 24).
 * packages/postgres/test/golden-values.test.ts holds Postgres to the table, test/docs/types.test.ts holds the page to it.
 */
import { writeFileSync } from 'node:fs';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { GOLDEN, type GoldenGroup, type GoldenValue } from '../packages/postgres/test/golden-types.ts';

export const TYPES_PAGE = new URL('../docs/types.md', import.meta.url);

/** Of a cell; what is longer is cut in the middle, with its length. */
const CELL_CHARACTERS_MAX = 96;

const INTRODUCTION = `# Types

<!-- Made by tools/generate-types-docs.ts from packages/postgres/test/golden-types.ts. Do not edit. -->

What a value of each Postgres type is in a [message](messages.md). A row that a backfill read and the same row streamed
give the same bytes. Every line below is a test that is run on Postgres 14 to 18: selected, inserted, as the old and the new
row of an update, and as a deleted row. Code: [value-json.ts](../packages/postgres/src/value-json.ts).

* \`NULL\` is \`null\`, of every type.
* A value whose text does not fit its type in JSON is its text as a string. No value stops the stream.
* A type that is not listed is a string of the text Postgres prints.
* In \`record_pks\` and in idempotency keys a key is always the text Postgres prints.
`;

const SETTINGS = `## Settings of the database do not matter

Some settings change how Postgres prints values. Millrace sets \`DateStyle\`, \`IntervalStyle\`, \`TimeZone\`, \`bytea_output\`,
\`extra_float_digits\`, \`quote_all_identifiers\` and \`client_encoding\` for each of its sessions, so what a role, a database or
the server have set does not reach the messages.

Two it cannot choose: \`lc_monetary\`, without which an amount of \`money\` cannot be read, and \`search_path\`, which belongs
to the user's own SQL and decides which names the \`reg...\` types qualify. The first session with a source keeps them as the
role has them, and all later sessions use the same. A later \`ALTER ROLE ... SET lc_monetary\` therefore changes nothing
until Millrace starts with an empty data directory. A locale that is missing on a new server is \`pg_setting_refused\`.

\`row_security\` is off: where a policy would hide rows from the role, a backfill fails with \`pg_privilege\` instead of leaving
them out, because the stream has no policies. Give the role \`BYPASSRLS\`, or make it the owner of the table.

## Encodings

Messages are UTF-8. A database in another encoding (\`LATIN1\`, \`EUC_JP\`, ...) is converted by Postgres, streamed rows and
backfilled rows alike. Text that has no UTF-8 form, a \`SQL_ASCII\` database with bytes that are not UTF-8, and
\`MULE_INTERNAL\` are refused with \`pg_encoding\`, which says how to find the rows. Nothing is replaced or left out in silence.
`;

function section({ title, notes, values }: GoldenGroup): string {
  const rows = values.map((value) => `| ${typeOf(value)} | ${code(sqlOf(value))} | ${code(value[2])} |`);
  return [
    `## ${title}`,
    '',
    ...notes.flatMap((note) => [note, '']),
    '| type | value | JSON |',
    '|---|---|---|',
    ...rows,
    '',
  ].join('\n');
}

/** Without the schemas of the test, and with the version that a value needs. */
function typeOf([type, , , since]: GoldenValue): string {
  return `${code(type.replace(/^[gx]\./, ''))}${since === undefined ? '' : ` (Postgres ${since})`}`;
}

function sqlOf([, sql]: GoldenValue): string {
  return sql.replace(/::[gx]\./g, '::');
}

function code(text: string): string {
  const shown = text
    .replaceAll('\n', '⏎')
    .replaceAll('\t', '⇥')
    .replaceAll('\x7f', '␡')
    .replaceAll('\u2028', '␤')
    .replaceAll('|', '\\|');
  if (shown.length <= CELL_CHARACTERS_MAX) return `\`${shown.startsWith(' ') ? ` ${shown} ` : shown}\``;
  return `\`${shown.slice(0, 40)}…${shown.slice(-20)}\` (${text.length} characters)`;
}

export function typesPage(): string {
  return [INTRODUCTION, ...GOLDEN.map(section), SETTINGS].join('\n');
}

if (argv[1] === fileURLToPath(import.meta.url)) writeFileSync(TYPES_PAGE, typesPage());
