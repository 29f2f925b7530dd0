import { rmSync } from 'node:fs';
import { localRoutedStreams } from '@millrace/sinks/s2-local-streams';
import { routableSink } from '@millrace/sinks/routable-sink';
import { routeLog } from '@millrace/sinks/route-log';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { testDirectory } from '@millrace/testkit/postgres';
import { seededRandom } from '@millrace/testkit/random';
import { test } from 'vitest';
import { expectedStreams, live, mortalStore, randomSteps, streamsOf } from './routed-run.ts';

test.each(Array.from({length: 20}, (_, i) => i))('debug %i', async (seed) => {
  const lines: string[] = [];
  const console = { log: (...a: unknown[]) => void lines.push(a.map((x) => typeof x === 'string' ? x : JSON.stringify(x)).join(' ').replace(/"schema[^]]*]/g, '')) };
  const dir = testDirectory('routed');
  const store = await openLocalStore({ dir, log: () => {} });
  const random = seededRandom(seed);
  const steps = randomSteps(random, 400, random.pick([1, 3, 7, 40]));
  const expected = expectedStreams(steps);
  let lives = 0;
  for (let done = false; !done; lives++) {
    const life = { left: 3 + random.integer(60) + lives };
    const mortal = mortalStore(store, life);
    const streams = localRoutedStreams({ store: mortal, name: 's' });
    const log = routeLog(mortal.state, 's');
    const show = () => log.load().map((e) => `${e.number}${e.kept ? 'K' + JSON.stringify(e.kept.batch.mark)+String(e.kept.batch.through.lsn)+'#'+e.kept.batch.through.ordinal : ''}`).join(' ');
    const before = Buffer.from(store.state.get('sink/s/cursor') ?? []).toString().slice(0, 3000);
    console.log(lives, 'cursor', before, '\n entries', show(), '\n arrived', log.loadArrived());
    const sink = routableSink({ single: null, streams, log, place: null, routed: true, placeNow: async () => null });
    const inner = sink.resume.bind(sink);
    const traced = { ...sink, limits: sink.limits, async resume(s: any, g: any) { const r = await inner(s, g); console.log(' resumed', r && String(r.position.lsn)+'#'+r.position.ordinal, JSON.stringify(r?.destination), JSON.stringify([...(r?.backfills??[])])); return r; } };
    done = await live({ steps, sink: traced, state: mortal.state, random });
    const found = await streamsOf(store);
    for (const [name, bodies] of Object.entries(found)) {
      const exp = expected[name] ?? [];
      const at = bodies.findIndex((b, i) => b !== exp[i]);
      if (at >= 0) { console.log('BAD', name, at, bodies.slice(at - 3, at + 3), exp.slice(at - 3, at + 3), steps.filter((s) => 'message' in s && s.message.id === bodies[at]!.split('/')[0]).map((s: any) => String(s.at.lsn) + '#' + s.at.ordinal)); done = true; throw new Error(lines.slice(-9).join('\n')); }
    }
  }
  await store.close();
  rmSync(dir, { recursive: true });
});
