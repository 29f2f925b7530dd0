/** `http_endpoints` of the configuration, with what their sinks share. */
import type { HttpEndpoint } from '../sink-kind.ts';
import { RequestGate } from './request-gate.ts';

export interface HttpEndpointSettings extends Omit<HttpEndpoint, 'gate'> {
  readonly maxRequestsPerSecond: number | null;
  readonly maxConcurrency: number | null;
}

/** Make it once for a configuration: sinks share a gate only when they ask the same lookup. */
export function httpEndpoints(all: readonly HttpEndpointSettings[]): (name: string) => HttpEndpoint | undefined {
  const byName = new Map(
    all.map(({ maxRequestsPerSecond, maxConcurrency, ...endpoint }): [string, HttpEndpoint] => [
      endpoint.name,
      {
        ...endpoint,
        gate: new RequestGate({
          requestsPerSecond: maxRequestsPerSecond ?? undefined,
          concurrency: maxConcurrency ?? undefined,
        }),
      },
    ]),
  );
  return (name) => byName.get(name);
}
