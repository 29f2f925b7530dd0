import type { StreamCipher, StreamConfig } from '../model.ts';
import { CIPHER_SHIFT, CIPHERS } from './row-flags.ts';
import { segmentsStart } from './stream-extra.ts';
import type { StreamNames } from './stream-names.ts';
import type { StreamTable } from './stream-table.ts';

/*
 * Streams in a checkpoint: up to a few hundred of one basin, in order of names, as one entry. Little-endian.
 *
 *   kind u8 · basin: length u8, UTF-8 · configurations u16, each: length u16, JSON · streams u16, each:
 *     id u48 · flags u8 · place of its configuration u16 · created at f64 · name: length u16, UTF-8
 *     · [state: tail u64 as f64 · tail timestamp u64 · trim point f64 · last arrival ms f64]
 *     · [extra: length u32, bytes as in stream-extra.ts]
 */
export const KIND_STREAMS = 7;

export const ENTRY_LOG = 1;
export const ENTRY_STATE = 2;
export const ENTRY_EXTRA = 4;

/** Takes the streams of an entry into the table, without their segments if `places` is false. Returns the highest id. */
export function loadStreams(
  payload: Buffer,
  table: StreamTable,
  namesOf: (basin: string) => StreamNames,
  places: boolean,
): number {
  let at = 2 + payload[1]!;
  const names = namesOf(payload.toString('utf8', 2, at));
  const configs: StreamConfig[] = [];
  const configCount = payload.readUInt16LE(at);
  at += 2;
  for (let i = 0; i < configCount; i++) {
    const end = at + 2 + payload.readUInt16LE(at);
    configs.push(JSON.parse(payload.toString('utf8', at + 2, end)) as StreamConfig);
    at = end;
  }
  const count = payload.readUInt16LE(at);
  at += 2;
  let highest = 0;
  for (let i = 0; i < count; i++) {
    const id = payload.readUIntLE(at, 6);
    const flags = payload[at + 6]!;
    const nameStart = at + 19;
    const nameEnd = nameStart + payload.readUInt16LE(at + 17);
    const cipher: StreamCipher | null = CIPHERS[flags >>> CIPHER_SHIFT]!;
    const slot = table.load(
      names,
      {
        id,
        config: configs[payload.readUInt16LE(at + 7)]!,
        cipher,
        createdAt: payload.readDoubleLE(at + 9),
        log: (flags & ENTRY_LOG) !== 0,
      },
      payload,
      nameStart,
      nameEnd,
    );
    at = nameEnd;
    if ((flags & ENTRY_STATE) !== 0) {
      table.loadState(
        slot,
        payload.readDoubleLE(at),
        payload.readBigUInt64LE(at + 8),
        payload.readDoubleLE(at + 16),
        payload.readDoubleLE(at + 24),
      );
      at += 32;
    }
    if ((flags & ENTRY_EXTRA) !== 0) {
      const end = at + 4 + payload.readUInt32LE(at);
      table.loadExtra(slot, payload, at + 4, places ? end : segmentsStart(payload, at + 4));
      at = end;
    }
    if (id > highest) highest = id;
  }
  return highest;
}
