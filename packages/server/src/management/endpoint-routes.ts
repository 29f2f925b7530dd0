/** HTTP endpoints and functions: what sinks name. They run nowhere by themselves. */

import type { RawBlock, Section } from '@millrace/api/applied/config-source';
import { nameOf } from '@millrace/api/applied/plan';
import { shownBlock } from '@millrace/api/applied/secrets';
import { blockBody } from '@millrace/api/config-requests';
import type { ConfigControl } from '../config/config-control.ts';
import { stableId } from '../stable-id.ts';
import { asksForSecrets } from './config-routes.ts';
import { createResource, deleteResource, updateResource } from './resource-edits.ts';
import { bodyOf, found, type ManagementRoutes } from './route.ts';

interface Named {
  readonly Params: { readonly idOrName: string };
  readonly Querystring: Record<string, string | undefined>;
}

const KINDS: readonly [path: string, section: Section, kind: string][] = [
  ['/destinations/http_endpoints', 'http_endpoints', 'http_endpoint'],
  ['/functions', 'functions', 'function'],
];

export const endpointRoutes: ManagementRoutes = (api, { config }) => {
  for (const [path, section, kind] of KINDS) {
    const views = (query: Named['Querystring']) => resourceViews(config, section, kind, asksForSecrets(query));
    const what = kind.replace('_', ' ');
    const named = (idOrName: string) => found(what, views({}), idOrName);
    api.get<Named>(path, async ({ query }) => ({ data: views(query) }));
    api.get<Named>(`${path}/:idOrName`, async ({ params, query }) => found(what, views(query), params.idOrName));
    api.post<Named>(path, async (request) => named(await createResource(config, section, bodyOf(request, blockBody))));
    for (const method of ['put', 'patch'] as const) {
      api[method]<Named>(`${path}/:idOrName`, async (request) => {
        const { name } = named(request.params.idOrName);
        return named(await updateResource(config, section, name, bodyOf(request, blockBody)));
      });
    }
    api.delete<Named>(`${path}/:idOrName`, async ({ params }) => {
      const { id, name } = named(params.idOrName);
      await deleteResource(config, section, name);
      return { id, deleted: true };
    });
  }
};

interface ResourceView extends RawBlock {
  readonly id: string;
  readonly name: string;
}

function resourceViews(config: ConfigControl, section: Section, kind: string, sensitive: boolean): ResourceView[] {
  const { source } = config.applied;
  return source.blocks[section].map((block) => {
    const name = nameOf(source, block);
    return { id: stableId(kind, name), ...shownBlock(source, section, block, sensitive), name };
  });
}
