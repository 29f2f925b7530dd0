/** Millrace with sinks of type webhook into one endpoint of this machine, in the process of a test. */
import { loadConfig } from '@millrace/api/config';
import { type Server, type ServerOptions, startServer } from '@millrace/server/main';
import type { TestDatabase } from '@millrace/testkit/postgres';
import { stringify } from 'yaml';

/** The endpoint is on this machine, which is a private address. */
export const ALL_ADDRESSES: NonNullable<ServerOptions['network']> = {
  brokers: { allowPrivate: true, allow: [] },
  webhooks: { allowPrivate: true, allow: [] },
};

export interface HookServerOptions {
  readonly dataDir: string;
  /** Of the endpoint `local`, with what else it is configured to. */
  readonly endpoint: { readonly url: string; readonly [key: string]: unknown };
  /** Without their database, and without type and endpoint of their destination. */
  readonly sinks: readonly { readonly name: string; readonly destination: object; readonly [key: string]: unknown }[];
  /** Absent: as a process without flags. */
  readonly network?: ServerOptions['network'];
}

export function startHookServer(db: TestDatabase, options: HookServerOptions): Promise<Server> {
  const text = stringify({
    databases: [
      {
        name: 'shop',
        url: db.url,
        slot: { name: db.name, create_if_not_exists: true },
        publication: { name: 'millrace', create_if_not_exists: true },
      },
    ],
    http_endpoints: [{ name: 'local', ...options.endpoint }],
    sinks: options.sinks.map(({ destination, ...rest }) => ({
      ...rest,
      database: 'shop',
      destination: { type: 'webhook', http_endpoint: 'local', ...destination },
    })),
  });
  return startServer({
    config: loadConfig(text, { file: 'millrace.yaml', env: {} }),
    dataDir: options.dataDir,
    host: '127.0.0.1',
    port: 0,
    log: () => {},
    network: options.network,
  });
}
