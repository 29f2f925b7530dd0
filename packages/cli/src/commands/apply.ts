import type { BasinSpec, StreamSpec } from '@millrace/api/resource-spec';
import type { BasinConfig, S2, StreamConfig } from '@s2-dev/streamstore';
import { type Command, Option } from 'commander';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { basinConfigRows, fromWire, type Rows, streamConfigRows } from '../config-view.ts';
import { CommandFailure } from '../failure.ts';
import { notice, standardOutput } from '../terminal.ts';
import { differencesOf } from './diff.ts';

interface Options extends ClientOptions {
  readonly file?: string;
  readonly dryRun?: boolean;
  readonly schema?: boolean;
}

export function addApply(program: Command): void {
  const command = program
    .command('apply')
    .description('Make basins and streams be as a file says: made when missing, changed when different.')
    .addOption(new Option('-f, --file <file>', 'the basins and streams, as JSON or YAML'))
    .addOption(new Option('--dry-run', 'only show what would be done: + made, ~ changed, = as it is'))
    .addOption(new Option('--schema', 'print the JSON Schema of the file'));
  addClientOptions(command).addHelpText('after', EXAMPLE).action(apply);
}

const EXAMPLE = `
What the file leaves out of a configuration gets its default; what it does not name stays as it is. Nothing is deleted.

Example:
  $ cat shop.json
  {"basins": [{"name": "shop-streams", "config": {"create_stream_on_append": true},
    "streams": [{"name": "orders", "config": {"retention_policy": "90days"}}]}]}
  $ millrace apply -f shop.json --dry-run`;

async function apply(options: Options): Promise<void> {
  const { readResourceSpec, resourceSpecSchema } = await import('@millrace/api/resource-spec');
  if (options.schema === true) {
    await standardOutput.write(`${JSON.stringify(resourceSpecSchema(), null, 2)}\n`);
    return;
  }
  if (options.file === undefined) throw new CommandFailure('usage', 'give the file with -f FILE.');
  const { basins } = await readResourceSpec(options.file);
  await withClient(options, async (s2) => {
    for (const basin of basins) await (options.dryRun === true ? previewBasin(s2, basin) : applyBasin(s2, basin));
  });
  if (options.dryRun !== true) notice('done', '✓ Done');
}

const OUTCOME = { created: 'created', updated: 'config updated', noop: 'config unchanged' };

async function applyBasin(s2: S2, basin: BasinSpec): Promise<void> {
  const { result } = await s2.basins.ensure({ basin: basin.name, config: fromWire(basin.config) as BasinConfig });
  notice('note', `basin ${basin.name} (${OUTCOME[result]})`);
  const { streams } = s2.basin(basin.name);
  for (const { name, config } of basin.streams) {
    const ensured = await streams.ensure({ stream: name, config: fromWire(config) as StreamConfig });
    notice('note', `stream s2://${basin.name}/${name} (${OUTCOME[ensured.result]})`);
  }
}

async function previewBasin(s2: S2, basin: BasinSpec): Promise<void> {
  const before = await unlessMissing(s2.basins.getConfig({ basin: basin.name }));
  const after = basinConfigRows(fromWire(basin.config) as BasinConfig);
  await preview(`basin ${basin.name}`, before === null ? null : withoutFilledIn(basinConfigRows(before), after), after);
  const { streams } = s2.basin(basin.name);
  for (const stream of basin.streams) {
    const now = before === null ? null : await unlessMissing(streams.getConfig({ stream: stream.name }));
    const uri = `stream s2://${basin.name}/${stream.name}`;
    await preview(uri, now === null ? null : streamConfigRows(now), streamConfigRows(resolved(stream, basin)));
  }
}

/** A store shows the storage class of a basin also when nobody set it. */
function withoutFilledIn(before: Rows, after: Rows): Rows {
  const field = 'default_stream_config.storage_class';
  if (after.some(([name]) => name === field)) return before;
  return before.filter(([name, value]) => name !== field || value !== DEFAULTS.storageClass);
}

/** null: there is no such basin or stream. */
async function unlessMissing<T>(request: Promise<T>): Promise<T | null> {
  const { S2Error } = await import('@s2-dev/streamstore');
  try {
    return await request;
  } catch (error) {
    if (error instanceof S2Error && (error.code === 'basin_not_found' || error.code === 'stream_not_found'))
      return null;
    throw error;
  }
}

/** What a stream has of which neither the file nor the basin says anything. */
const DEFAULTS: StreamConfig = {
  storageClass: 'express',
  retentionPolicy: { ageSecs: 604_800 },
  timestamping: { mode: 'client-prefer', uncapped: false },
  deleteOnEmpty: { minAgeSecs: 0 },
};

/** As the store resolves it: the stream's own before the basin's before the defaults. */
function resolved(stream: StreamSpec, basin: BasinSpec): StreamConfig {
  const own = fromWire(stream.config) as StreamConfig;
  const basins = fromWire(basin.config.default_stream_config ?? {}) as StreamConfig;
  return {
    ...DEFAULTS,
    ...basins,
    ...own,
    timestamping: { ...DEFAULTS.timestamping, ...basins.timestamping, ...own.timestamping },
  };
}

async function preview(what: string, before: Rows | null, after: Rows): Promise<void> {
  if (before === null) {
    await standardOutput.write(`+ ${what}\n${after.map(([field, value]) => `    ${field}: ${value}\n`).join('')}`);
    return;
  }
  const changes = differencesOf(before, after);
  const lines = changes.map(({ field, left, right }) => `    ${field}: ${left ?? 'default'} → ${right ?? 'default'}\n`);
  await standardOutput.write(`${changes.length === 0 ? '=' : '~'} ${what}\n${lines.join('')}`);
}
