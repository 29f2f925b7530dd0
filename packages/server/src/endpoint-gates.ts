/** One gate for all sinks of an HTTP endpoint: its limits are of the endpoint, not of a sink. */
import type { HttpEndpointConfig } from '@millrace/api/config';
import { RequestGate } from '@millrace/sinks/http/request-gate';

export class EndpointGates {
  readonly #gates = new Map<string, { readonly limits: string; readonly gate: RequestGate }>();

  /** Another one when its limits are others: sinks of both share neither rate nor count while they change over. */
  of({ name, url, maxRequestsPerSecond, maxConcurrency }: HttpEndpointConfig): RequestGate {
    const limits = JSON.stringify([url, maxRequestsPerSecond, maxConcurrency]);
    const known = this.#gates.get(name);
    if (known?.limits === limits) return known.gate;
    const gate = new RequestGate({
      requestsPerSecond: maxRequestsPerSecond ?? undefined,
      concurrency: maxConcurrency ?? undefined,
    });
    this.#gates.set(name, { limits, gate });
    return gate;
  }
}
