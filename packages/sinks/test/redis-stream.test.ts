import { redisStreamKind } from '@millrace/sinks/redis-stream';
import { redisMissing } from '@millrace/testkit/servers/redis';
import { registerPushSinkContract } from './push-sink-contract.ts';
import { startRedisBench } from './redis-target.ts';

const missing = await redisMissing();

registerPushSinkContract({
  kind: redisStreamKind,
  module: import.meta.resolve('@millrace/sinks/redis-stream'),
  exportName: 'redisStreamKind',
  missing,
  async start() {
    const { client, connection, part } = await startRedisBench();
    return {
      ...part,
      destination: (place, way) => ({ type: 'redis_stream', ...connection(way), stream_key: place }),
      withWrongPlace: (destination) => {
        void client.set('a-string', '1');
        return { ...destination, stream_key: 'a-string' };
      },
      routeTo: (place) => ({ stream_key: place }),
      async received(place) {
        const entries = await client.xrange(place, '-', '+');
        return entries.map(([, fields]) => ({ body: bodyOf(fields) }));
      },
      dedupes: false,
      keepsHistory: true,
      takesText: false,
    };
  },
});

/** The suite's bodies are objects whose values are all texts, or null. */
function bodyOf(fields: readonly string[]): Buffer {
  const entries: [string, unknown][] = [];
  for (let at = 0; at < fields.length; at += 2) {
    const [name, value] = [fields[at] as string, fields[at + 1] as string];
    entries.push([name, value === 'null' ? null : value]);
  }
  return Buffer.from(JSON.stringify(Object.fromEntries(entries)));
}
