/** The configuration as a file: what would change, apply it, and get it back. */

import type { Plan } from '@millrace/api/applied/plan';
import { applyBody, type PlanBody, planBody } from '@millrace/api/config-requests';
import { type ConfigControl, ConfigProblems, type Wanted } from '../config/config-control.ts';
import { ManagementError } from './management-error.ts';
import { bodyOf, type ManagementRoutes } from './route.ts';

export const configRoutes: ManagementRoutes = (api, { config }) => {
  api.post('/config/plan', async (request) => planView(planned(config, wantedOf(bodyOf(request, planBody)))));
  api.post('/config/apply', async (request) => {
    const body = bodyOf(request, applyBody);
    const plan = await applied(config, wantedOf(body), body.fingerprint);
    return { ...planView(plan), resources: resourcesOf(config) };
  });
  api.get<{ Querystring: Record<string, string | undefined> }>('/config/export', async ({ query }) => ({
    yaml: config.export(asksForSecrets(query)),
  }));
};

/** `?show-sensitive=true`, or with an underscore: Sequin has both. */
export function asksForSecrets(query: Readonly<Record<string, string | undefined>>): boolean {
  return query['show-sensitive'] === 'true' || query.show_sensitive === 'true';
}

function wantedOf({ yaml, variables = {}, files = {}, prune = false }: PlanBody): Wanted {
  return { kind: 'file', yaml, variables, files, prune };
}

export type PlanView = ReturnType<typeof planView>;

function planView({ changes, actions, kept, warnings, fingerprint }: Plan) {
  return { changes, actions, kept, warnings, fingerprint };
}

function resourcesOf({ applied: { config } }: ConfigControl) {
  const named = ({ name }: { readonly name: string }) => name;
  return {
    databases: config.databases.map(named),
    http_endpoints: config.httpEndpoints.map(named),
    functions: config.functions.map(named),
    sinks: config.sinks.map(named),
  };
}

/** What the client is told when it cannot be. */
export function planned(config: ConfigControl, wanted: Wanted): Plan {
  try {
    return config.plan(wanted);
  } catch (error) {
    throw refusal(error);
  }
}

export async function applied(config: ConfigControl, wanted: Wanted, fingerprint?: string): Promise<Plan> {
  try {
    return await config.apply(wanted, fingerprint);
  } catch (error) {
    throw refusal(error);
  }
}

function refusal(error: unknown): unknown {
  if (!(error instanceof ConfigProblems)) return error;
  const errors: Record<string, string[]> = {};
  for (const { line, path, text } of [...error.problems].sort((a, b) => a.line - b.line)) {
    const field = path === '' ? 'yaml' : path;
    const full = line === 0 ? text : `line ${line}: ${text}`;
    errors[field] = [...new Set([...(errors[field] ?? []), full])];
  }
  return new ManagementError(422, error.message, errors);
}
