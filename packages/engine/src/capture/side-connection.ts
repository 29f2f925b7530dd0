import { type ConnectionConfig, PgConnection } from '@millrace/postgres/connection';

/** A connection for `work` alone. The signal ends it, whatever the server has it wait for (a synchronous standby, say). */
export async function onSideConnection<T>(
  config: ConnectionConfig,
  signal: AbortSignal,
  work: (sql: PgConnection) => Promise<T>,
): Promise<T> {
  const sql = await PgConnection.connect(config, signal);
  const onAbort = () => void sql.close();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    if (signal.aborted) onAbort();
    return await work(sql);
  } finally {
    signal.removeEventListener('abort', onAbort);
    await sql.close();
  }
}
