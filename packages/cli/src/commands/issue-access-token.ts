import { OPERATIONS, type Operation } from '@millrace/stream-store/model';
import type { IssueAccessTokenInput } from '@s2-dev/streamstore';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { duration, exclusive, rfc3339 } from '../option-value.ts';
import { standardOutput } from '../terminal.ts';

interface Options extends ClientOptions {
  readonly expiresIn?: number;
  readonly expiresAt?: Date;
  readonly autoPrefixStreams?: boolean;
  readonly basinsPrefix?: string;
  readonly basinsExact?: string;
  readonly streamsPrefix?: string;
  readonly streamsExact?: string;
  readonly accessTokensPrefix?: string;
  readonly accessTokensExact?: string;
  readonly opGroupPerms?: OperationGroups;
  readonly ops?: Operation[];
}

type OperationGroups = Partial<Record<'account' | 'basin' | 'stream', { read: boolean; write: boolean }>>;
type Scope = IssueAccessTokenInput['scope'];

const RESOURCES = [
  ['basins', 'basins'],
  ['streams', 'streams'],
  ['access-tokens', 'access tokens'],
] as const;

export function addIssueAccessToken(program: Command): void {
  const command = program
    .command('issue-access-token')
    .description('Make an access token. Its secret is printed once and not kept.')
    .argument('<id>', '1 to 96 bytes, unique in the store');
  const expiry = exclusive([
    new Option('--expires-in <duration>', 'valid for this long: 30d').argParser(duration),
    new Option('--expires-at <time>', 'valid until: 2027-01-31T12:00:00Z').argParser(rfc3339),
  ]);
  for (const option of expiry) command.addOption(option);
  command.addOption(
    new Option('--auto-prefix-streams', 'names of streams are below --streams-prefix, which is left out'),
  );
  for (const [name, text] of RESOURCES) {
    const pair = exclusive([
      new Option(`--${name}-prefix <prefix>`, `${text} whose name begins with this; "" is all`),
      new Option(`--${name}-exact <name>`, `only the one of this name`),
    ]);
    for (const option of pair) command.addOption(option);
  }
  addClientOptions(
    command
      .addOption(
        new Option('--op-group-perms <perms>', 'r and w per group: "account=rw,basin=r,stream=w"').argParser(
          operationGroups,
        ),
      )
      .addOption(new Option('--ops <ops>', 'single operations, separated by commas').argParser(operations)),
  )
    .addHelpText(
      'after',
      `\nOperations:\n${columns(OPERATIONS, 4)}\n\nExample (may append to any stream of one basin, nothing else):\n` +
        '  $ millrace issue-access-token writer --basins-exact shop-streams --streams-prefix "" --ops append',
    )
    .action((id: string, options: Options) =>
      withClient(options, async (s2) => {
        const expiresAt =
          options.expiresIn === undefined ? options.expiresAt : new Date(Date.now() + options.expiresIn);
        const { accessToken } = await s2.accessTokens.issue({
          id,
          scope: scopeOf(options),
          ...(expiresAt === undefined ? {} : { expiresAt }),
          ...(options.autoPrefixStreams === true ? { autoPrefixStreams: true } : {}),
        });
        await standardOutput.write(`${accessToken}\n`);
      }),
    );
}

function scopeOf(options: Options): Scope {
  const basins = resourceSet(options.basinsPrefix, options.basinsExact);
  const streams = resourceSet(options.streamsPrefix, options.streamsExact);
  const accessTokens = resourceSet(options.accessTokensPrefix, options.accessTokensExact);
  return {
    ...(basins === undefined ? {} : { basins }),
    ...(streams === undefined ? {} : { streams }),
    ...(accessTokens === undefined ? {} : { accessTokens }),
    ...(options.opGroupPerms === undefined ? {} : { opGroups: options.opGroupPerms }),
    ...(options.ops === undefined ? {} : { ops: options.ops }),
  };
}

function resourceSet(prefix: string | undefined, exact: string | undefined): Scope['basins'] {
  if (exact !== undefined) return { exact };
  return prefix === undefined ? undefined : { prefix };
}

function operationGroups(text: string): OperationGroups {
  const groups: OperationGroups = {};
  for (const part of text.split(',')) {
    const found = /^(account|basin|stream)=(r|w|rw|wr)$/.exec(part.trim());
    if (found === null) throw new InvalidArgumentError('expected account=rw,basin=r,stream=w or a part of it');
    const [, group, perms] = found;
    groups[group as keyof OperationGroups] = { read: perms!.includes('r'), write: perms!.includes('w') };
  }
  return groups;
}

function operations(text: string): Operation[] {
  return text.split(',').map((part) => {
    const known = OPERATIONS.find((operation) => operation === part.trim());
    if (known === undefined) throw new InvalidArgumentError(`"${part.trim()}" is not an operation (see --help)`);
    return known;
  });
}

function columns(words: readonly string[], count: number): string {
  const width = Math.max(...words.map((word) => word.length)) + 2;
  const lines: string[] = [];
  for (let at = 0; at < words.length; at += count) {
    const line = words.slice(at, at + count).map((word) => word.padEnd(width));
    lines.push(`  ${line.join('').trimEnd()}`);
  }
  return lines.join('\n');
}
