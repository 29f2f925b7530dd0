import { natsKind } from '@millrace/sinks/nats';
import { natsMissing } from '@millrace/testkit/servers/nats';
import { startNatsBench } from './nats-target.ts';
import { registerPushSinkContract } from './push-sink-contract.ts';

registerPushSinkContract({
  kind: natsKind,
  module: import.meta.resolve('@millrace/sinks/nats'),
  exportName: 'natsKind',
  missing: await natsMissing(),
  start: async () => (await startNatsBench()).target(),
});
