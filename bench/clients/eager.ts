/** Baseline where there is no pg_recvlogical: like it, a reader that is always awake. */
import { runClient } from './client.ts';
import type { DrainInput } from './drain.ts';
import { drainToNothing } from './nothing.ts';

await runClient((input: DrainInput) => drainToNothing(input, { pauseAfter: () => 0 }));
