import type { LocalStore } from '../../src/local-store.ts';
import type { ListRequest, Page } from '../../src/model.ts';
import { S2Error } from '../../src/s2-error.ts';
import type { Stream } from '../../src/store.ts';
import { EVERYTHING, input, readAll, recordsOf } from '../store-rig.ts';

/*
 * Everything a store answers, as JSON: two stores that answer alike have equal snapshots. Lists in pages of every size,
 * configurations, tails, fencing tokens, records read from every place under every kind of limit, timestamps looked up,
 * access tokens, the state table, the engine's log.
 */

export const LOG_STREAM = 'changes';

export async function snapshotOf(store: LocalStore, secrets: ReadonlyMap<string, string>): Promise<string> {
  const basins = pagesOf((request) => store.listBasins(request)).items;
  const answers: unknown[] = [basins];
  for (const basin of basins) {
    answers.push(store.getBasinConfig(basin.name));
    const list = (request: ListRequest) => store.listStreams(basin.name, request);
    for (const info of pagesOf(list).items) answers.push(info, await streamAnswers(store, basin.name, info.name));
    answers.push(list({ prefix: 's', limit: 1 }), list({ startAfter: 's0' }), list({ prefix: 'none' }));
  }
  const log = store.openLogStream(LOG_STREAM);
  answers.push(log === null ? null : await dataOf(log));
  answers.push(pagesOf((request) => store.listAccessTokens(request)).items);
  for (const [id, secret] of secrets) answers.push(id, store.authenticate(secret));
  for (const [key, value] of store.state.list('')) answers.push(key, Buffer.from(value).toString('base64'));
  return JSON.stringify(answers, (_key, value) => (typeof value === 'bigint' ? `${value}n` : value), 1);
}

/** The list in pages of one, which is the list in one page. */
function pagesOf<T extends { readonly name: string } | { readonly id: string }>(
  list: (request: ListRequest) => Page<T>,
): Page<T> {
  const whole = list({});
  const parts: T[] = [];
  for (let startAfter: string | undefined; ; ) {
    const page: Page<T> = list({ limit: 1, startAfter });
    parts.push(...page.items);
    const last = page.items.at(-1);
    if (page.hasMore !== parts.length < whole.items.length) throw new Error('has_more of a list is wrong');
    if (!page.hasMore || last === undefined) break;
    startAfter = 'name' in last ? last.name : last.id;
  }
  if (JSON.stringify(parts) !== JSON.stringify(whole.items)) throw new Error('a list differs from its pages');
  return whole;
}

async function streamAnswers(store: LocalStore, basin: string, name: string): Promise<unknown> {
  try {
    const stream = await store.openStream(basin, name, 'read');
    return [stream.id, store.getStreamConfig(basin, name), await fencingTokenOf(stream), await dataOf(stream)];
  } catch (error) {
    if (error instanceof S2Error) return error.code;
    throw error;
  }
}

/** A refused append shows it, and does nothing else. */
export async function fencingTokenOf(stream: Stream): Promise<string> {
  try {
    await stream.append(input(['never'], { fencingToken: '~ never a token ~' }));
  } catch (error) {
    if (error instanceof S2Error && error.code === 'fencing_token_mismatch') return error.fencingToken!;
    throw error;
  }
  throw new Error('a fencing token that was never set is let in');
}

async function dataOf(stream: Stream): Promise<unknown> {
  // Loads the index that tells how far exactly the retention has come.
  await stream.read(0, EVERYTHING);
  const records = await readAll(stream);
  const { tail, firstSeqNum, assignedSeqNum } = stream;
  const answers: unknown[] = [tail, firstSeqNum, assignedSeqNum, stream.cipher, records];
  // From every fifth place or so: a few records, few bytes, up to a time.
  const stride = Math.max(1, Math.floor(records.length / 5));
  for (let i = 0; i < records.length; i += stride) {
    const { seqNum, timestamp } = records[i]!;
    for (const limits of [
      { ...EVERYTHING, countMax: 3 },
      { ...EVERYTHING, meteredBytesMax: 500 },
      { ...EVERYTHING, untilTimestamp: timestamp + 5n },
    ]) {
      const slice = await stream.read(seqNum, limits);
      answers.push(slice === null ? null : prefixOf(recordsOf(slice.records).map((record) => record.seqNum)));
    }
    answers.push(await stream.findTimestamp(timestamp), await stream.findTimestamp(timestamp + 1n));
  }
  answers.push(await stream.read(0, { ...EVERYTHING, countMax: 0 }), await stream.findTimestamp(tail.timestamp + 1n));
  return answers;
}

/** A read may end early at a boundary of storage, which is allowed to differ: only where it begins is not. */
function prefixOf(seqNums: readonly number[]): unknown {
  if (seqNums.some((seqNum, i) => seqNum !== seqNums[0]! + i)) throw new Error('a read is not dense');
  return seqNums[0];
}
