import type { DirectoryStatus } from '@millrace/stream-store/compaction/directory-status';
import type { Command } from 'commander';

/** `millrace store status`: the files of a store, read from its directory, whether a server has it open or not. */
export function addStoreStatus(store: Command): void {
  store
    .command('status')
    .description('Show the files of a store: segments, packs, checkpoints, leftovers. A server may have it open.')
    .usage('--data <dir> [--json]')
    .option('--json', 'one JSON object')
    .addHelpText('after', EXAMPLES)
    .action(async (_options: unknown, command: Command) => {
      const { data, json } = command.optsWithGlobals<{ data: string; json?: boolean }>();
      const { directoryStatus } = await import('@millrace/stream-store/compaction/directory-status');
      const { nodeFileSystem } = await import('@millrace/stream-store/journal/file-system');
      const status = await directoryStatus(nodeFileSystem, data);
      process.stdout.write(json === true ? `${JSON.stringify(status)}\n` : describe(status));
    });
}

const EXAMPLES = `
How much of the records is alive only a running server knows: see /metrics.

Example:
  $ millrace store status --data ./streams`;

function describe(status: DirectoryStatus): string {
  const { journals, packs, checkpoints, leftovers } = status;
  const lines = [
    ['total', size(status.totalBytes)],
    ['main journal', journalText(journals.main)],
    ['log journal', journalText(journals.log)],
    ['packs', packs.count === 0 ? 'none: nothing was compacted yet' : `${packs.count}, ${size(packs.bytes)}`],
    ...packs.levels.map(({ level, runs, packs: count, bytes }) => [
      `  level ${level}`,
      `${count} in ${runs} ${runs === 1 ? 'run' : 'runs'}, ${size(bytes)}`,
    ]),
    ['compactions', String(status.generation)],
    ['checkpoint', checkpoints.newest ?? 'none'],
    ['base', checkpoints.base ?? 'none'],
    ['leftovers', leftovers.count === 0 ? 'none' : `${leftovers.count} files, ${size(leftovers.bytes)}`],
  ];
  return `${lines.map(([name, text]) => `${name!.padEnd(14)}${text}`).join('\n')}\n`;
}

function journalText({
  segments,
  segmentBytes,
  firstSegment,
  lastSegment,
}: DirectoryStatus['journals']['main']): string {
  if (segments === 0) return 'no segments';
  return `${segments} ${segments === 1 ? 'segment' : 'segments'} (${firstSegment} to ${lastSegment}), ${size(segmentBytes)}`;
}

function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}
