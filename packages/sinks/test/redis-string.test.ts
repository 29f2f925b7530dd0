import { redisStringKind } from '@millrace/sinks/redis-string';
import { redisMissing } from '@millrace/testkit/servers/redis';
import { registerPushSinkContract } from './push-sink-contract.ts';
import { startRedisBench } from './redis-target.ts';

const missing = await redisMissing();

registerPushSinkContract({
  kind: redisStringKind,
  module: import.meta.resolve('@millrace/sinks/redis-string'),
  exportName: 'redisStringKind',
  missing,
  async start() {
    const { client, connection, part } = await startRedisBench();
    return {
      ...part,
      destination: (_place, way) => ({ type: 'redis_string', ...connection(way) }),
      withWrongPlace: () => null,
      // Keys of a place start with its name, as those of a table do.
      facts: (place) => ({ table: place }),
      routeTo: (place) => ({ key: `sequin:${place}:routed` }),
      async received(place) {
        const keys = await client.keys(`sequin:${place}:*`);
        const values = await Promise.all(keys.map((key) => client.getBuffer(key)));
        return values.flatMap((body) => (body === null ? [] : [{ body }]));
      },
      dedupes: true,
      keepsHistory: false,
      takesText: true,
    };
  },
});
