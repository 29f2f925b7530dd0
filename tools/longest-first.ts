/**
 * The order of test files on a machine that has not run them yet: those that are known to take long first, so that none
 * of them is still running alone at the end. Afterwards vitest knows how long each took, and orders by that.
 */
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Seconds of each, on two cores. What is not here takes less, and is ordered by its size. */
const SECONDS: Readonly<Record<string, number>> = {
  'packages/sinks/test/rabbitmq.test.ts': 60,
  'test/crash/campaign.test.ts': 45,
  'packages/sinks/test/kafka.test.ts': 41,
  'test/end-to-end/bad-input.test.ts': 37,
  'packages/sinks/test/kafka-behaviour.test.ts': 37,
  'packages/cli/test/config.test.ts': 34,
  'test/sinks-crash/campaign.test.ts': 30,
  'packages/sinks/test/sqs.test.ts': 30,
  'packages/sinks/test/sns.test.ts': 30,
  'packages/sinks/test/kinesis.test.ts': 30,
  'test/random/random.test.ts': 25,
  'test/end-to-end/config-apply.test.ts': 24,
  'packages/engine/test/liveness.test.ts': 23,
  'packages/embedded-postgres/test/launcher.test.ts': 20,
  'packages/postgres/test/replication.test.ts': 20,
  'packages/engine/test/change-log.test.ts': 17,
  'test/end-to-end/backfill-jobs.test.ts': 17,
  'packages/stream-store/test/object-storage.test.ts': 16,
  'packages/stream-store/test/linearizability/linearizability.test.ts': 16,
  'packages/cli/test/verbs.test.ts': 16,
  'test/end-to-end/inventory-example.test.ts': 15,
  'test/end-to-end/health.test.ts': 15,
  'test/end-to-end/supervision.test.ts': 15,
  'test/end-to-end/recovery.test.ts': 14,
  'packages/engine/test/transaction-trees.test.ts': 14,
  'test/loss-classes/14-handover-gap.test.ts': 14,
  'test/end-to-end/remote-sink.test.ts': 12,
  'test/loss-classes/26-back-pressure.test.ts': 11,
  'packages/sinks/test/redis-stream.test.ts': 11,
  'packages/sinks/test/redis-string.test.ts': 11,
  'test/loss-classes/28-slot-held-by-the-dead.test.ts': 11,
  'test/loss-classes/24-large-transaction.test.ts': 10,
  'packages/cli/test/demo.test.ts': 10,
};

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const { cache, config } = this.ctx;
    if (sorted.every((file) => cache.getTestSpecificationResult(file) !== undefined)) return sorted;
    const secondsOf = ({ moduleId }: TestSpecification) => SECONDS[moduleId.slice(config.root.length + 1)] ?? 0;
    // A stable sort: the others stay as they were.
    return sorted.sort((a, b) => secondsOf(b) - secondsOf(a));
  }
}
