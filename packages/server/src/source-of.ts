/** What the engine is told of a configured database. */
import type { DatabaseConfig, ServerConfig } from '@millrace/api/config';
import type { SourceConfig } from '@millrace/engine/capture/source';

export function sourceOf(database: DatabaseConfig): SourceConfig {
  const { name, sslRootCert, slot, publication, primary, standbys } = database;
  const connection = (server: ServerConfig): SourceConfig['connection'] => ({
    host: server.hostname,
    port: server.port,
    database: server.database,
    user: server.username,
    password: server.password,
    ssl: server.ssl,
    applicationName: 'millrace',
    ...(sslRootCert !== undefined && { sslRootCert }),
  });
  return {
    name,
    connection: connection(database),
    slot,
    publication,
    standbys: standbys.map(connection),
    ...(primary !== undefined && { primary: connection(primary) }),
  };
}
