/** Findings about the declarative rules of sinks, and what of them Postgres could do by itself. */
import type { SinkConfig } from '@millrace/api/config';
import type { Finding } from '@millrace/engine/health/finding';
import { planPublication } from '@millrace/engine/publication-plan';
import type { Publication } from '@millrace/engine/rows/published-tables';
import { ruleFindings } from '@millrace/engine/rule-findings';
import type { PublicationFacts } from '@millrace/postgres/source-facts';
import { tableFilter } from '../table-filter.ts';

export function sinkRuleFindings(sink: SinkConfig, publication: Publication): Finding[] {
  const takes = tableFilter(sink.source);
  const taken = publication.tables.filter(({ schema }) => takes(schema.schema, schema.name));
  const { name, rules } = sink;
  const actions = { update: sink.actions.includes('update'), delete: sink.actions.includes('delete') };
  return ruleFindings(
    { name, rules, actions },
    taken.map(({ schema }) => schema),
  );
}

/** Only where a sink asks for it. */
export function pushDownFindings(
  facts: PublicationFacts,
  serverVersion: number,
  { tables }: Publication,
  sinks: readonly SinkConfig[],
): Finding[] {
  if (!sinks.some(({ rules }) => rules.pushDown)) return [];
  const plan = planPublication(
    { ...facts, serverVersion },
    tables,
    sinks.map(({ name, rules, source }) => ({ name, rules, takes: tableFilter(source) })),
  );
  const slug = 'push_down';
  if (plan.refused !== null) {
    return [
      { slug, severity: 'notice', text: `Nothing of the sinks' rules goes into the publication. ${plan.refused}` },
    ];
  }
  const why = plan.tables.flatMap(({ schema, name, reasons }) =>
    reasons.map((reason) => `${schema}.${name}: ${reason}`),
  );
  const rest = why.length === 0 ? '' : ` Not all of it can: ${why.slice(0, REASONS_MAX).join('; ')}.`;
  if (plan.sql === '') {
    return [{ slug, severity: 'notice', text: `Nothing of the sinks' rules goes into the publication.${rest}` }];
  }
  return [
    {
      slug,
      severity: 'notice',
      text: `Postgres can leave out by itself what no sink takes: run the statement below, and the messages stay the same.${rest}`,
      fix: plan.sql,
    },
  ];
}

const REASONS_MAX = 8;
