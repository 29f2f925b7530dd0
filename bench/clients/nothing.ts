import { PgConnection } from '@millrace/postgres/connection';
import type { ReadPacing } from '@millrace/postgres/read-pacing';
import { startReplication } from '@millrace/postgres/replication';
import { startMeter } from './client.ts';
import type { DrainInput, DrainResult } from './drain.ts';

const COMMIT = 0x43; // C
const INSERT = 0x49; // I

/** Counts the rows of the backlog, up to the last commit. */
export async function drainToNothing(
  { connection: config, slot, publication, rows }: DrainInput,
  pacing?: ReadPacing,
): Promise<DrainResult> {
  const connection = await PgConnection.connect({ ...config, replication: true });
  const over = Promise.withResolvers<void>();
  let seen = 0;
  const used = startMeter();
  const stream = await startReplication(
    connection,
    { slot, publications: [publication], startLsn: 0n, ...(pacing && { pacing }) },
    {
      message(buffer, start) {
        const type = buffer[start];
        if (type === INSERT) seen++;
        else if (type === COMMIT && seen === rows) over.resolve();
      },
      keepalive() {},
      burst() {},
      closed: (error) => over.reject(error ?? new Error('The stream ended early.')),
    },
  );
  await over.promise;
  const result = { endedAtMs: Date.now(), ...used(), reads: stream.stats.reads, bytes: stream.stats.bytes };
  await stream.stop();
  return result;
}
