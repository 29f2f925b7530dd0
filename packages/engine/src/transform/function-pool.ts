/**
 * The threads that functions run in, shared by all sinks: started when first needed, replaced when one hangs or dies.
 *
 * A sink stays with one thread. One whose function ran into its time limit goes on in a thread apart until it behaves,
 * so that the sinks beside it do not wait for its limit again and again.
 */
import { Worker } from 'node:worker_threads';
import { assert } from '@millrace/core/assert';
import type { CompiledFunction } from './function-source.ts';
import {
  type FunctionAnswer,
  type FunctionRequest,
  type LoadFailure,
  NO_RUN,
  PROGRESS,
} from './function-worker-messages.ts';
