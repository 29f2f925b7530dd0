import type { Command } from 'commander';
import { CommandFailure } from './failure.ts';

const OFF = new Set(['', '0', 'false', 'no', 'off']);
const ON = new Set(['1', 'true', 'yes', 'on']);

/**
 * For commander an environment variable of a flag without a value means "on" whatever it holds: MILLRACE_NO_AUTH=false
 * would switch the checking of tokens off. Takes away those that say "off", and refuses what says neither.
 */
export function settleFlagEnvironment(command: Command, env: Record<string, string | undefined>): void {
  for (const option of command.options) {
    const name = option.envVar;
    if (name === undefined || option.required || option.optional) continue;
    const value = env[name]?.toLowerCase();
    if (value === undefined || ON.has(value)) continue;
    if (!OFF.has(value)) throw new CommandFailure('usage', `${name} has to be true or false.`);
    delete env[name];
  }
  for (const child of command.commands) settleFlagEnvironment(child, env);
}
