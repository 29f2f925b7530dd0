/**
 * Who may do what at the management API: a token that may do everything, everything; a consume token, to receive and to
 * acknowledge the messages of the pull sinks that it names, and nothing else, here or at the S2 API.
 *
 * Consume tokens are access tokens of the store, without any of S2's rights: hashed, revoked and run out as those are.
 */
import type { Access, Authenticator } from '@millrace/stream-store/http/access';
import { covers } from '@millrace/stream-store/http/permission';
import { S2Error } from '@millrace/stream-store/s2-error';
import type { FastifyRequest } from 'fastify';
import type { DatabaseSupervisor } from '../database-supervisor.ts';
import { ManagementError } from './management-error.ts';
import { pullSinkNamed } from './pull-sink-named.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Of a sink (`:idOrName`), and for its consumers too. */
    forConsumers?: true;
  }
}

/** What a route says that consume tokens are good for. */
export const FOR_CONSUMERS = { config: { forConsumers: true } } as const;

export class ManagementAccess {
  readonly #authenticator: Authenticator;
  readonly #databases: () => readonly DatabaseSupervisor[];

  constructor(authenticator: Authenticator, databases: () => readonly DatabaseSupervisor[]) {
    this.#authenticator = authenticator;
    this.#databases = databases;
  }

  /**
   * Throws 401 and 403. Asked before a route is begun, and again by one that takes long before it shows more: what was
   * revoked meanwhile shows nothing.
   */
  require(request: FastifyRequest): Access {
    const access = this.#authenticated(request);
    if (access.full) return access;
    const { consumes } = access.info;
    if (consumes === undefined) {
      throw new ManagementError(
        403,
        'The management API takes the root token, or an access token that may do everything.',
      );
    }
    const sink = request.routeOptions.config.forConsumers === true ? this.#sinkOf(request) : null;
    // Whether there is a sink of another name is nothing that it is told.
    if (sink !== null && consumes.some((set) => covers(set, sink))) return access;
    throw new ManagementError(
      403,
      'This token is for receiving and acknowledging messages of the sinks that it names.',
    );
  }

  #authenticated({ headers }: FastifyRequest): Access {
    try {
      return this.#authenticator.authenticate(headers.authorization);
    } catch (error) {
      if (error instanceof S2Error) throw new ManagementError(401, error.message);
      throw error;
    }
  }

  /** As the route itself finds it. */
  #sinkOf({ params }: FastifyRequest): string {
    const { idOrName } = params as { readonly idOrName: string };
    return pullSinkNamed(this.#databases(), idOrName) ?? idOrName;
  }
}
