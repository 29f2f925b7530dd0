/** Ours, to the durable change log: what capture does, without the reconnecting around it. */
import { ChangeLog } from '@millrace/engine/change-log/change-log';
import { LogWriter } from '@millrace/engine/change-log/log-writer';
import { PgConnection } from '@millrace/postgres/connection';
import { type ReplicationStream, startReplication } from '@millrace/postgres/replication';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { runClient, startMeter } from './client.ts';
import type { DrainInput, DrainResult } from './drain.ts';

const COMMIT = 0x43; // C
const INSERT = 0x49; // I

await runClient<DrainInput, DrainResult>(async ({ connection: config, slot, publication, rows, dataDir }) => {
  const store = await openLocalStore({ dir: dataDir });
  const log = await ChangeLog.open(await store.createLogStream('changes/bench'), store.state, 'source/bench');
  const connection = await PgConnection.connect({ ...config, replication: true });
  const over = Promise.withResolvers<void>();
  let live: ReplicationStream | null = null;
  let seen = 0;
  let lastCommitEnd = 0n;
  const writer = new LogWriter(log, {
    acknowledge(lsn) {
      live?.confirm(lsn);
      if (lastCommitEnd > 0n && lsn >= lastCommitEnd) over.resolve();
    },
    pressure: (on) => (on ? live?.pause() : live?.resume()),
    failed: over.reject,
  });
  const used = startMeter();
  live = await startReplication(
    connection,
    { slot, publications: [publication], startLsn: 0n },
    {
      message(buffer, start, end) {
        const type = buffer[start];
        if (type === INSERT) seen++;
        else if (type === COMMIT && seen === rows) lastCommitEnd = buffer.readBigUInt64BE(start + 10);
        writer.message(buffer, start, end);
      },
      keepalive: (walEnd) => writer.keepalive(walEnd),
      burst: () => writer.burst(),
      closed: (error) => over.reject(error ?? new Error('The stream ended early.')),
    },
  );
  await over.promise;
  const result = { endedAtMs: Date.now(), ...used(), reads: live.stats.reads, bytes: live.stats.bytes };
  await live.stop();
  await writer.drained();
  await store.close();
  return result;
});
