/** Findings about the declarative rules of sinks, and what of them Postgres could do by itself. */
import type { DatabaseConfig, SinkConfig } from '@millrace/api/config';
import type { MillraceError } from '@millrace/core/error';
import type { Finding } from '@millrace/engine/health/finding';
import { changesTo, type PublicationNeeds, readPublicationNeeds } from '@millrace/engine/publication-decision';
import { changeSql } from '@millrace/engine/publication-form';
import type { PublicationPlan } from '@millrace/engine/publication-plan';
import type { Publication } from '@millrace/engine/rows/published-tables';
import { ruleFindings } from '@millrace/engine/rule-findings';
import type { PgConnection } from '@millrace/postgres/connection';
import { concealedKey, unusableEnrichment } from '../enrichment-checks.ts';
import { tableFilter } from '../table-filter.ts';

export function sinkRuleFindings(sink: SinkConfig, publication: Publication): Finding[] {
  const takes = tableFilter(sink.source);
  const taken = publication.tables.filter(({ schema }) => takes(schema.schema, schema.name));
  const { name, rules } = sink;
  const actions = { update: sink.actions.includes('update'), delete: sink.actions.includes('delete') };
  const schemas = taken.map(({ schema }) => schema);
  const concealed = concealedKey(sink, schemas);
  const findings = ruleFindings({ name, rules, actions }, schemas);
  if (concealed === null) return findings;
  return [ofEnrichment(name, concealed), ...findings];
}

/** Its SQL is planned on the server, for the tables that the sink takes. */
export async function enrichmentFindings(
  connection: PgConnection,
  sink: SinkConfig,
  publication: Publication,
): Promise<Finding[]> {
  if (sink.status === 'disabled') return [];
  const tables = publication.tables.map(({ schema }) => ({ schema: schema.schema, name: schema.name }));
  const problem = await unusableEnrichment(connection, sink, tables);
  return problem === null ? [] : [ofEnrichment(sink.name, problem)];
}

function ofEnrichment(sink: string, { code, message, hint }: MillraceError): Finding {
  return { slug: code, severity: 'error', text: `Sink "${sink}": ${message} ${hint ?? ''}`.trimEnd() };
}

/** Only where a sink asks for it. */
export async function pushDownFindings(
  connection: PgConnection,
  { publication, slot, audit }: DatabaseConfig,
  sinks: readonly SinkConfig[],
): Promise<Finding[]> {
  const active = sinks.filter(({ status }) => status !== 'disabled');
  if (!active.some(({ rules }) => rules.pushDown)) return [];
  const keepsRows = slot.onLoss === 'repair' || audit !== null || active.some(({ fillUnchanged }) => fillUnchanged);
  const needs = await readPublicationNeeds(connection, publication.name, keepsRows);
  if (needs === null) return [];
  const planned = active.map(({ name, rules, source, contents }) => ({
    ...{ name, rules, takes: tableFilter(source), schemaChanges: contents.schemaChanges },
  }));
  return planFindings(needs, needs.plan(planned));
}

const slug = 'push_down';

function planFindings({ form }: PublicationNeeds, plan: PublicationPlan): Finding[] {
  const why = plan.tables.flatMap(({ schema, name, reasons }) =>
    reasons.map((reason) => `${schema}.${name}: ${reason}`),
  );
  const refused = plan.refused === null ? '' : ` ${plan.refused}`;
  const rest = why.length === 0 ? refused : ` Not all of it can: ${why.slice(0, REASONS_MAX).join('; ')}.`;
  const changes = changesTo(form, plan, false);
  const findings: Finding[] = [];
  if (changes.length > 0) {
    const sql = `BEGIN;\n${changeSql(form, changes)}\nCOMMIT;`;
    const mayNot = !form.owned || changes.some(({ table }) => !table.owned);
    findings.push(
      mayNot
        ? {
            slug,
            severity: 'warning',
            text: `The column lists and row filters of the publication are not what the sinks ask for, and this user owns not both the publication and the tables: it cannot change them.${rest}`,
            fix: sql,
            code: 'push_down_refused',
          }
        : {
            slug,
            severity: 'notice',
            text: `The next start changes the column lists and row filters of the publication, with the statements below: Postgres then leaves out by itself what no sink takes.${rest}`,
            fix: sql,
          },
    );
  } else if (plan.tables.every(({ columns, rows }) => columns === null && rows === null)) {
    findings.push({ slug, severity: 'notice', text: `Nothing of the sinks' rules goes into the publication.${rest}` });
  }
  return findings;
}

const REASONS_MAX = 8;
