/** What every client that drains a backlog is given and reports. */
import type { ConnectionConfig } from '@millrace/postgres/connection';
import type { Usage } from './client.ts';

export interface DrainInput {
  readonly connection: ConnectionConfig;
  readonly slot: string;
  readonly publication: string;
  readonly rows: number;
  /** Where the backlog ends, for a client that does not count rows. */
  readonly endLsn: string;
  /** The client's own, empty. */
  readonly dataDir: string;
  readonly recvlogical: string | null;
}

export interface DrainResult extends Usage {
  /** By the clock on the wall, which is also what Postgres dates START_REPLICATION by. */
  readonly endedAtMs: number;
  /** Reads of the socket, and what they brought, where the client knows. */
  readonly reads?: number;
  readonly bytes?: number;
}
