import { PassThrough } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { BodyReader } from './body.ts';
import type { Exchange } from './exchange.ts';

/** What of an exchange concerns its body. */
const exchangeOf = () => ({ body: new PassThrough(), bodyBytes: 0 }) as unknown as Exchange & { body: PassThrough };

function reader(bytesMax: number, timeoutMs = 60_000): BodyReader {
  const bodies = new BodyReader(timeoutMs, bytesMax);
  onTestFinished(() => bodies.close());
  return bodies;
}

async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await turn();
}

it('reads no more of any body while those in memory fill the bound, and goes on when one is answered', async () => {
  const bodies = reader(10_000);
  const exchanges = Array.from({ length: 5 }, exchangeOf);
  const results = exchanges.map((exchange) => bodies.read(exchange, 1_000_000));
  for (const { body } of exchanges) {
    for (let i = 0; i < 10; i++) body.write(Buffer.alloc(1_000, 'x'));
    await settle();
  }
  // The bound, and what each of them had on its way when it was reached.
  expect(bodies.bytes).toBeGreaterThan(10_000);
  expect(bodies.bytes).toBeLessThan(20_000);
  for (const { body } of exchanges) body.end();
  let most = 0;
  await Promise.all(
    results.map(async (result, i) => {
      expect((await result).length).toBe(10_000);
      most = Math.max(most, bodies.bytes);
      await turn();
      bodies.release(exchanges[i]!);
    }),
  );
  expect([bodies.bytes, most < 30_000]).toEqual([0, true]);
});

it('lets go of a body whose exchange ended before it did', async () => {
  const bodies = reader(10_000);
  const exchange = exchangeOf();
  const result = bodies.read(exchange, 1_000_000);
  exchange.body.write('half');
  await settle();
  expect(bodies.bytes).toBe(4);
  bodies.release(exchange);
  await expect(result).rejects.toMatchObject({ code: 'client_hangup' });
  exchange.body.write('more');
  await settle();
  expect(bodies.bytes).toBe(0);
});

it('refuses what is too large with invalid, and what comes too slowly with request_timeout', async () => {
  const bodies = reader(10_000, 30);
  const large = exchangeOf();
  large.body.end(Buffer.alloc(2_000));
  await expect(bodies.read(large, 1_000)).rejects.toMatchObject({ code: 'invalid' });
  const slow = exchangeOf();
  await expect(bodies.read(slow, 1_000)).rejects.toMatchObject({ code: 'request_timeout' });
});

it('takes a body that was over before anybody read it as empty', async () => {
  const bodies = reader(10_000);
  const exchange = exchangeOf();
  exchange.body.resume();
  exchange.body.end();
  await settle();
  expect((await bodies.read(exchange, 1_000)).length).toBe(0);
});
