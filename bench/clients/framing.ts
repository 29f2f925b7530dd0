/** Ours, taking messages off the socket and doing nothing with them. */
import { runClient } from './client.ts';
import type { DrainInput } from './drain.ts';
import { drainToNothing } from './nothing.ts';

await runClient((input: DrainInput) => drainToNothing(input));
