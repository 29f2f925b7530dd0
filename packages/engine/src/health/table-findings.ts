/**
 * What is to be said of a publication and its tables: the traps of replica identity, partitions and large values, each
 * with the SQL that takes it away. Pure; shared by the preflight check and running health.
 */
import { quoteIdentifier, quoteLiteral } from '@millrace/postgres/connection';
import {
  PUBLISHED_ACTIONS,
  type PublicationFacts,
  type PublishedAction,
  type PublishedTable,
} from '@millrace/postgres/source-facts';
import type { Finding } from './finding.ts';

export interface TableId {
  readonly schema: string;
  readonly name: string;
}

/** Tables that a finding names one by one; the rest is counted. */
const NAMED_MAX = 8;

export function publicationFindings(
  name: string,
  publication: PublicationFacts | null,
  tables: readonly PublishedTable[],
): Finding[] {
  const quoted = quoteIdentifier(name);
  if (publication === null) {
    return [
      {
        slug: 'publication_not_recognized',
        severity: 'error',
        text: `There is no publication "${name}", or it is younger than the changes that the slot has yet to send.`,
        fix:
          `CREATE PUBLICATION ${quoted} FOR TABLE public.products WITH (publish_via_partition_root = true);\n` +
          '-- If it was dropped while changes were waiting, the slot cannot get past them: it has to be made anew, after the publication.',
        code: 'pg_publication_missing',
      },
    ];
  }
  const findings: Finding[] = [];
  if (tables.length === 0 && (publication.allTables || publication.schemas.length > 0)) {
    findings.push({
      slug: 'no_tables_in_publication',
      severity: 'notice',
      text: `There is no table yet: publication "${name}" holds those that will be made.`,
    });
  } else if (tables.length === 0) {
    findings.push({
      slug: 'no_tables_in_publication',
      severity: 'warning',
      text: `Publication "${name}" holds no table: nothing will ever come.`,
      fix: `ALTER PUBLICATION ${quoted} ADD TABLE public.products;`,
    });
  }
  if (!publication.viaRoot && tables.some(({ partition }) => partition)) {
    const roots = unique(tables.filter(({ partition }) => partition).map((t) => [t.rootSchema, t.rootName]));
    findings.push({
      slug: 'pubviaroot_not_set',
      severity: 'warning',
      text:
        `Publication "${name}" sends changes of ${listed(roots)} under the names of its partitions, and a sink that names ` +
        'the partitioned table gets none of them.',
      fix: `ALTER PUBLICATION ${quoted} SET (publish_via_partition_root = true);`,
    });
  }
  return findings;
}

/** Of tables that the publication holds. */
export function identityFindings(publication: PublicationFacts, tables: readonly PublishedTable[]): Finding[] {
  const findings: Finding[] = [];
  const { update, delete: remove } = publication.publishes;
  const leaves = tables.filter(({ partitioned }) => !partitioned);
  const { without, partitionedWithout } = withoutIdentity(tables);
  if ((update || remove) && without.length + partitionedWithout.length > 0) {
    const all = names([...without, ...partitionedWithout]);
    findings.push({
      slug: 'replica_identity_missing',
      severity: 'warning',
      text: `UPDATE and DELETE fail in Postgres for ${listed(all)}: a published table needs a primary key that is not DEFERRABLE, or another replica identity.`,
      fix: fullIdentity(without, partitionedWithout),
    });
  }
  const notFull = leaves.filter(({ identity, hasIdentity }) => hasIdentity && identity !== 'full');
  if (notFull.length > 0) {
    findings.push({
      slug: 'replica_identity_not_full',
      severity: 'notice',
      text: `The replica identity of ${listed(names(notFull))} is not full: updates say what is new, not what was there before ("changes" is {}), and deletes have the key only.`,
      fix: statements(names(notFull), (table) => `ALTER TABLE ${table} REPLICA IDENTITY FULL;`),
    });
  }
  const partitioned = tables.filter((table) => table.partitioned && table.leavesNotFull > table.leavesWithoutIdentity);
  if (partitioned.length > 0) {
    findings.push({
      slug: 'replica_identity_not_full_partitioned',
      severity: 'notice',
      text: `Partitions of ${listed(names(partitioned))} do not have the full replica identity. Each partition has its own; that of the partitioned table does not count.`,
      fix: statements(names(partitioned), everyPartition),
    });
  }
  return findings;
}

/** A table whose large values are left out of updates that do not touch them. */
export function toastFindings(tables: readonly PublishedTable[], filled: boolean): Finding[] {
  const found = tables.filter(({ hasToasted, identity, partitioned, leavesNotFull }) =>
    partitioned ? hasToasted && leavesNotFull > 0 : hasToasted && identity !== 'full',
  );
  if (filled || found.length === 0) return [];
  const names = found.map(({ schema, name }) => [schema, name] as const);
  return [
    {
      slug: 'toast_columns_detected',
      severity: 'warning',
      text: `${listed(names)} ${found.length === 1 ? 'holds' : 'hold'} large values (TOAST). Postgres leaves such a value out of an update that does not touch it, and so does the message.`,
      fix: statements(names, (table) => `ALTER TABLE ${table} REPLICA IDENTITY FULL;`),
    },
  ];
}

/** Actions that a sink takes and the publication does not publish: Postgres never sends them. */
export function unpublishedActionFindings(
  publication: PublicationFacts,
  wanted: readonly PublishedAction[],
  tables: readonly PublishedTable[],
): Finding[] {
  const { name, publishes } = publication;
  const missing = wanted.filter((action) => !publishes[action]);
  if (missing.length === 0) return [];
  const all = PUBLISHED_ACTIONS.filter((action) => publishes[action] || missing.includes(action));
  const kept = wanted.filter((action) => publishes[action]);
  // With updates or deletes published, Postgres would refuse those of a table without an identity.
  const { without, partitionedWithout } = withoutIdentity(tables);
  const first =
    missing.includes('update') || missing.includes('delete') ? fullIdentity(without, partitionedWithout) : '';
  const fix = [
    first,
    `ALTER PUBLICATION ${quoteIdentifier(name)} SET (publish = '${all.join(', ')}');`,
    kept.length === 0
      ? ''
      : `-- or, where that is meant, actions: [${kept.join(', ')}] in the configuration of the sink`,
  ];
  return [
    {
      slug: 'action_not_published',
      severity: 'warning',
      text: `Publication "${name}" does not publish ${missing.join(', ')}, which this sink takes: none will come.`,
      fix: fix.filter(Boolean).join('\n'),
    },
  ];
}

/** Tables that a sink names and the publication does not hold. */
export function missingTableFindings(
  publication: Pick<PublicationFacts, 'name' | 'allTables' | 'schemas'>,
  wanted: readonly TableId[],
  tables: readonly PublishedTable[],
): Finding[] {
  const held = new Set(tables.flatMap((t) => [key(t.schema, t.name), key(t.rootSchema, t.rootName)]));
  const missing = wanted.filter((table) => !held.has(key(table.schema, table.name)));
  const isWhole = ({ schema }: TableId) => publication.allTables || publication.schemas.includes(schema);
  const ids = (found: readonly TableId[]) => found.map(({ schema, name }) => [schema, name] as const);
  const findings: Finding[] = [];
  const addable = ids(missing.filter((table) => !isWhole(table)));
  const about = { slug: 'table_not_in_publication', severity: 'error', code: 'pg_table_unpublished' } as const;
  if (addable.length > 0) {
    findings.push({
      ...about,
      text: `${listed(addable)} ${addable.length === 1 ? 'is' : 'are'} not in publication "${publication.name}", or ${addable.length === 1 ? 'does' : 'do'} not exist.`,
      fix: statements(addable, (table) => `ALTER PUBLICATION ${quoteIdentifier(publication.name)} ADD TABLE ${table};`),
    });
  }
  // Postgres refuses ADD TABLE: whatever it can publish there is in it already.
  const never = ids(missing.filter(isWhole));
  if (never.length > 0) {
    findings.push({
      ...about,
      text: `${listed(never)} ${never.length === 1 ? 'does' : 'do'} not exist, or Postgres cannot publish ${never.length === 1 ? 'it' : 'them'} (unlogged, temporary, foreign, a view): publication "${publication.name}" holds all tables ${publication.allTables ? 'there are' : 'of the schema'}.`,
      fix: 'Create it, or correct the name in the sink (source.include_tables, initial_backfill).',
    });
  }
  return findings;
}

export function qualified(schema: string, name: string): string {
  return `${quoteIdentifier(schema)}.${quoteIdentifier(name)}`;
}

/** `a`, `b` and 3 more. */
export function listed(names: readonly (readonly [string, string])[]): string {
  const shown = names.slice(0, NAMED_MAX).map(([schema, name]) => `${schema}.${name}`);
  const more = names.length - shown.length;
  return more > 0 ? `${shown.join(', ')} and ${more} more` : shown.join(', ');
}

export function statements(
  names: readonly (readonly [string, string])[],
  statement: (table: string) => string,
): string {
  const lines = names.slice(0, NAMED_MAX).map(([schema, name]) => statement(qualified(schema, name)));
  const more = names.length - lines.length;
  return more > 0 ? [...lines, `-- and so on for ${more} more`].join('\n') : lines.join('\n');
}

function withoutIdentity(tables: readonly PublishedTable[]) {
  return {
    without: tables.filter(({ partitioned, hasIdentity }) => !partitioned && !hasIdentity),
    partitionedWithout: tables.filter(({ leavesWithoutIdentity }) => leavesWithoutIdentity > 0),
  };
}

function fullIdentity(without: readonly PublishedTable[], partitioned: readonly PublishedTable[]): string {
  const each = (table: string) => `ALTER TABLE ${table} REPLICA IDENTITY FULL; -- or give it such a primary key`;
  return [statements(names(without), each), statements(names(partitioned), everyPartition)].filter(Boolean).join('\n');
}

function names(tables: readonly PublishedTable[]): (readonly [string, string])[] {
  return tables.map(({ schema, name }) => [schema, name] as const);
}

function everyPartition(table: string): string {
  const body =
    `DECLARE p regclass; BEGIN FOR p IN SELECT relid FROM pg_partition_tree(${quoteLiteral(table)}) LOOP ` +
    "EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', p); END LOOP; END";
  // A name could end what stands between dollars.
  return table.includes('$') ? `DO ${quoteLiteral(body)};` : `DO $$ ${body} $$;`;
}

function unique(names: readonly (readonly [string, string])[]): (readonly [string, string])[] {
  return [...new Map(names.map((name) => [key(...name), name])).values()];
}

function key(schema: string, name: string): string {
  return JSON.stringify([schema, name]);
}
