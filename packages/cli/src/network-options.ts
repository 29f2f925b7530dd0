/** Which addresses sinks may connect to: flags of the process, which no configuration that it is given can change. */
import type { ServerOptions } from '@millrace/server/main';
import { type Command, Option } from 'commander';
import { addressList } from './option-value.ts';

export interface NetworkOptions {
  readonly sinksAllow?: readonly string[];
  readonly webhooksAllowPrivate?: boolean;
}

export function addNetworkOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--sinks-allow <hosts>',
        'hosts (*.internal), addresses and networks (10.0.0.0/8) that sinks may connect to whatever they are, by commas',
      )
        .env('MILLRACE_SINKS_ALLOW')
        .argParser(addressList),
    )
    .addOption(
      new Option('--webhooks-allow-private', 'webhooks may go to private addresses, and to this machine').env(
        'MILLRACE_WEBHOOKS_ALLOW_PRIVATE',
      ),
    );
}

/** Brokers are mostly near; where a webhook goes is often somebody else's word. */
export function networkOf({
  sinksAllow: allow = [],
  webhooksAllowPrivate = false,
}: NetworkOptions): NonNullable<ServerOptions['network']> {
  return { brokers: { allowPrivate: true, allow }, webhooks: { allowPrivate: webhooksAllowPrivate, allow } };
}
