import { rabbitmqKind } from '@millrace/sinks/rabbitmq';
import { rabbitmqMissing } from '@millrace/testkit/servers/rabbitmq';
import { registerPushSinkContract } from './push-sink-contract.ts';
import { startRabbitmqBench } from './rabbitmq-target.ts';

registerPushSinkContract({
  kind: rabbitmqKind,
  module: import.meta.resolve('@millrace/sinks/rabbitmq'),
  exportName: 'rabbitmqKind',
  missing: await rabbitmqMissing(),
  start: async () => (await startRabbitmqBench()).target(),
});
