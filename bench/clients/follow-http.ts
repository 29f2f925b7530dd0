/** Reads a stream as it grows, through S2's own SDK over the network. */
import { S2 } from '@s2-dev/streamstore';
import { type Arrivals, monotonicMs } from './arrivals.ts';
import { BASIN } from './bench-server.ts';
import { runClient } from './client.ts';

export interface FollowHttpInput {
  readonly url: string;
  readonly token: string;
  readonly stream: string;
  readonly rows: number;
}

await runClient<FollowHttpInput, Arrivals>(async ({ url, token, stream: name, rows }, parent) => {
  const s2 = new S2({ accessToken: token, endpoints: { account: url, basin: url } });
  const stream = s2.basin(BASIN).stream(name);
  const session = await stream.readSession({ start: { from: { seqNum: 0 } } });
  parent.tell('ready');
  const arrivals: { ends: number[]; atMs: number[] } = { ends: [], atMs: [] };
  for await (const record of session) {
    arrivals.ends.push(record.seqNum + 1);
    arrivals.atMs.push(monotonicMs());
    if (record.seqNum + 1 >= rows) break;
  }
  await stream.close();
  return arrivals;
});
