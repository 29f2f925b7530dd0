/**
 * The pipeline that people write today: npm pg-logical-replication, its own pgoutput parser, JSON.stringify, and a client
 * of the destination. One message after the other, or a hundred at a time.
 */
import type { ConnectionConfig } from '@millrace/postgres/connection';
import { LogicalReplicationService, type Pgoutput, PgoutputPlugin } from 'pg-logical-replication';
import { runClient, startMeter, type Usage } from './client.ts';
import { type NaiveMessage, type NaivePlace, openNaivePublisher } from './naive-publishers.ts';

export interface NaiveInput {
  readonly connection: ConnectionConfig;
  readonly slot: string;
  readonly publication: string;
  readonly place: NaivePlace;
  /** It ends when so many have arrived. */
  readonly messages: number;
  /** 1: each is awaited before the next one. */
  readonly batch: number;
}

export interface NaiveResult extends Usage {
  readonly endedAtMs: number;
}

await runClient<NaiveInput, NaiveResult>(async ({ connection, slot, publication, place, messages, batch }) => {
  const publisher = await openNaivePublisher(place);
  const { host, port, user, database, password } = connection;
  const service = new LogicalReplicationService(
    { host, port, user, database, password },
    { acknowledge: { auto: true, timeoutSeconds: 10 }, flowControl: { enabled: true } },
  );
  const { promise: done, resolve, reject } = Promise.withResolvers<void>();
  let taken = 0;
  let arrived = 0;
  let waiting: NaiveMessage[] = [];
  service.on('data', async (_lsn: string, log: Pgoutput.Message) => {
    if (log.tag !== 'insert' || taken === messages) return;
    taken++;
    const { relation, new: record } = log;
    const metadata = { table_schema: relation.schema, table_name: relation.name };
    const message = { key: String(record['id']), value: JSON.stringify({ action: 'insert', record, metadata }) };
    try {
      if (batch === 1) {
        await publisher.one(message);
        arrived++;
      } else {
        waiting.push(message);
        if (waiting.length < batch && taken < messages) return;
        await publisher.many(waiting);
        arrived += waiting.length;
        waiting = [];
      }
      if (arrived === messages) resolve();
    } catch (error) {
      reject(error);
    }
  });
  service.on('error', reject);
  const used = startMeter();
  const plugin = new PgoutputPlugin({ protoVersion: 1, publicationNames: [publication] });
  service.subscribe(plugin, slot).catch(reject);
  await done;
  const result = { endedAtMs: Date.now(), ...used() };
  await service.stop();
  await publisher.close();
  return result;
});
