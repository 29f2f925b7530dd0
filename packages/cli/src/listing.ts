import { type Command, Option } from 'commander';
import { toWire } from './config-view.ts';
import { wholeNumber } from './option-value.ts';
import { standardOutput } from './terminal.ts';

/** What the list commands share: their flags, paging, and one line per item. */
export interface ListOptions {
  readonly prefix?: string;
  readonly startAfter?: string;
  readonly limit?: number;
  readonly autoPaginate: boolean;
  readonly json?: boolean;
}

export interface ListRequest {
  prefix?: string;
  startAfter?: string;
  limit?: number;
}

const PAGE_MAX = 1000;

export function addListOptions(command: Command): Command {
  return command
    .addOption(new Option('-p, --prefix <prefix>', 'only names that begin with this'))
    .addOption(new Option('-s, --start-after <name>', 'only names that sort after this one'))
    .addOption(new Option('-n, --limit <count>', 'at most this many').argParser(wholeNumber))
    .addOption(new Option('--no-auto-paginate', 'one page only (1000 at most)'))
    .addOption(new Option('--json', 'one JSON object per line'));
}

/**
 * Prints items page by page, so that a long list starts at once and never stands in memory whole. `page` answers one
 * request; `nameOf` says where the next page begins.
 */
export async function printListing<T>(
  options: ListOptions,
  page: (request: ListRequest) => Promise<{ items: readonly T[]; hasMore: boolean }>,
  nameOf: (item: T) => string,
  lineOf: (item: T) => string,
): Promise<void> {
  let left = options.limit ?? Number.MAX_SAFE_INTEGER;
  let startAfter = options.startAfter;
  while (left > 0) {
    const { items, hasMore } = await page({
      ...(options.prefix === undefined ? {} : { prefix: options.prefix }),
      ...(startAfter === undefined ? {} : { startAfter }),
      limit: Math.min(left, PAGE_MAX),
    });
    const lines = items.map((item) => `${options.json === true ? JSON.stringify(toWire(item)) : lineOf(item)}\n`);
    await standardOutput.write(lines.join(''));
    left -= items.length;
    const last = items.at(-1);
    if (!hasMore || last === undefined || !options.autoPaginate) return;
    startAfter = nameOf(last);
  }
}

export function deletingMark(item: { readonly deletedAt?: Date | null }): string {
  return item.deletedAt == null ? '' : ' [deleting]';
}
