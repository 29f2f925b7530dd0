/** Reads a table whole: by COPY, counting only; or as a backfill does, into nothing, or into a durable local stream. */

import type { BackfillInput, BackfillResult } from '../backfill.ts';
import { backfillJob } from '../backfill-job.ts';
import { runClient } from './client.ts';

await runClient<BackfillInput, BackfillResult>((input) => backfillJob(input));
