import type { AccessTokenInfo, S2 } from '@s2-dev/streamstore';
import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { basinConfigRows, type Rows, streamConfigRows, toWire } from '../config-view.ts';
import { CommandFailure } from '../failure.ts';
import { parseBasinUri, parseStreamUri } from '../s2-uri.ts';
import { standardOutput } from '../terminal.ts';

type Resource = 'basin' | 'stream' | 'access-token';

interface Options extends ClientOptions {
  readonly resource?: Resource;
  readonly output: 'text' | 'json';
  readonly exitCode?: boolean;
}

export interface Difference {
  readonly field: string;
  /** null: not set on this side. */
  readonly left: string | null;
  readonly right: string | null;
}

export function addDiff(program: Command): void {
  const command = program
    .command('diff')
    .description('Show in what the settings of two basins, streams or access tokens differ.')
    .argument('<left>', 'BASIN, s2://BASIN/STREAM or the id of a token')
    .argument('<right>', 'another of the same kind')
    .addOption(
      new Option(
        '-r, --resource <kind>',
        'what they are (default: what they look like; a token has to be named)',
      ).choices(['basin', 'stream', 'access-token']),
    )
    .addOption(new Option('-o, --output <format>', 'text or json').choices(['text', 'json']).default('text'))
    .addOption(new Option('--exit-code', 'end with 1 when they differ'));
  addClientOptions(command)
    .addHelpText(
      'after',
      '\nExamples:\n  $ millrace diff s2://shop-streams/orders s2://shop-streams/products' +
        '\n  $ millrace diff shop-streams test-streams --exit-code\n  $ millrace diff reader writer -r access-token',
    )
    .action(async (left: string, right: string, options: Options) => {
      const kind = options.resource ?? guessKind(left, right);
      const sides = await withClient(options, async (s2) => {
        return [await rowsOf(s2, kind, left), await rowsOf(s2, kind, right)] as const;
      });
      const differences = differencesOf(...sides);
      const text =
        options.output === 'json'
          ? `${JSON.stringify({ resource: kind, left, right, differences })}\n`
          : differences.map(describeDifference).join('');
      await standardOutput.write(text);
      if (options.exitCode === true && differences.length > 0) process.exitCode = 1;
    });
}

function guessKind(left: string, right: string): Resource {
  const kinds = [left, right].map((text) => (/^s2:\/\/[^/]+\/./.test(text) ? 'stream' : 'basin'));
  if (kinds[0] === kinds[1]) return kinds[0]!;
  throw new CommandFailure('usage', 'one is a basin and the other a stream: compare two of the same kind.');
}

async function rowsOf(s2: S2, kind: Resource, name: string): Promise<Rows> {
  switch (kind) {
    case 'basin':
      return basinConfigRows(await s2.basins.getConfig({ basin: asUsage(() => parseBasinUri(name)) }));
    case 'stream': {
      const { basin, stream } = asUsage(() => parseStreamUri(name));
      return streamConfigRows(await s2.basin(basin).streams.getConfig({ stream }));
    }
    case 'access-token':
      return tokenRows(await findToken(s2, name));
  }
}

function asUsage<T>(parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new CommandFailure('usage', `${(error as Error).message}.`);
  }
}

/** There is no request for one token; a list that starts with its id does. */
async function findToken(s2: S2, id: string): Promise<AccessTokenInfo> {
  const { accessTokens } = await s2.accessTokens.list({ prefix: id, limit: 1 });
  const [found] = accessTokens;
  if (found?.id === id) return found;
  throw new CommandFailure(
    'access_token_not_found',
    `there is no access token "${id}".`,
    'See what is there: millrace list-access-tokens',
  );
}

function tokenRows(info: AccessTokenInfo): Rows {
  const { id: _id, ...rest } = toWire(info) as Record<string, unknown>;
  return flatten(rest, '');
}

function flatten(value: unknown, path: string): Rows {
  if (Array.isArray(value)) return [[path, value.toSorted().join(', ')]];
  if (typeof value !== 'object' || value === null) return [[path, String(value)]];
  return Object.entries(value).flatMap(([key, inner]) => flatten(inner, path === '' ? key : `${path}.${key}`));
}

export function differencesOf(left: Rows, right: Rows): Difference[] {
  const [before, after] = [new Map(left), new Map(right)];
  return [...new Set([...before.keys(), ...after.keys()])].flatMap((field) => {
    const pair = { field, left: before.get(field) ?? null, right: after.get(field) ?? null };
    return pair.left === pair.right ? [] : [pair];
  });
}

function describeDifference({ field, left, right }: Difference): string {
  return `${field}: ${left ?? 'not set'} → ${right ?? 'not set'}\n`;
}
