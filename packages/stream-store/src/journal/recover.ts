import { MillraceError } from '@millrace/core/error';
import type { FileSystem } from './file-system.ts';
import { createSegment, type JournalOptions, type JournalTip, segmentPath } from './journal.ts';
import {
  checkEntry,
  decodeSegmentHeader,
  ENTRY_HEADER_BYTES,
  judgeTail,
  newJournalIdentity,
  SEGMENT_HEADER_BYTES,
  type SegmentHeader,
} from './segment-format.ts';

/*
 * Opens a journal: reads its segments in order, gives every entry to the caller, cuts a torn tail off, and refuses
 * (storage_corrupt, with file and offset) whatever cannot be the remains of a crash.
 */

export interface Replay {
  /**
   * Asked before a segment is read, in order. `skip` leaves it unread; only a sealed one can be skipped. A durable end
   * that is known from elsewhere turns a tail that is cut shorter than that into corruption.
   */
  segment(segment: number, sealed: boolean, header: SegmentHeader): Promise<'read' | 'skip'>;
  /** `payload` is valid during the call only. */
  entry(segment: number, offset: number, payload: Buffer): void;
  segmentEnd(segment: number, end: number, sealed: boolean): Promise<void>;
}

export interface RecoverOptions extends JournalOptions {
  /** True when old segments are deleted from the front, so that the first may have any number. */
  readonly trimmed: boolean;
  /** A position known to have been durable, from a checkpoint. */
  readonly durable: { readonly segment: number; readonly offset: number } | null;
}

export interface Recovered extends JournalTip {
  /** Bytes of a torn write that were cut off. */
  readonly tornBytes: number;
}

export async function recoverJournal(options: RecoverOptions, replay: Replay): Promise<Recovered> {
  const { dir, fileSystem, durable } = options;
  await fileSystem.makeDir(dir);
  const segments = await listSegments(fileSystem, dir);
  if (segments.length === 0) {
    if (durable !== null) throw corrupt(dir, 'the journal is gone, but its checkpoint is there');
    return await createJournal(options);
  }
  checkNumbers(dir, segments, options);

  const last = segments.at(-1)!;
  let first: SegmentHeader | null = null;
  let tip: Recovered | null = null;
  for (const segment of segments) {
    const path = segmentPath(dir, segment);
    const header = await readHeader(fileSystem, path);
    if (header === null) throw corrupt(path, 'at offset 0: not a journal segment of this version');
    first ??= header;
    if (header.segment !== segment || header.journalId !== first.journalId || header.marker !== first.marker) {
      throw corrupt(path, 'at offset 0: the segment belongs to another place or journal');
    }
    const sealed = segment !== last;
    if ((await replay.segment(segment, sealed, header)) === 'skip' && sealed) continue;
    const end = await replaySegment(fileSystem, path, segment, sealed, header, replay);
    if (durable !== null && durable.segment === segment && end.end < durable.offset) {
      throw corrupt(
        path,
        `at offset ${end.end}: damaged, and the checkpoint says it was durable up to ${durable.offset}`,
      );
    }
    await replay.segmentEnd(segment, end.end, sealed);
    if (!sealed) tip = await reopen(options, path, segment, segments[0]!, header, end);
  }
  return tip!;
}

async function createJournal(options: JournalOptions): Promise<Recovered> {
  const identity = newJournalIdentity();
  const { file, end } = await createSegment(options, { ...identity, segment: 1 }, []);
  return { ...identity, firstSegment: 1, segment: 1, file, end, tornBytes: 0 };
}

async function listSegments(fileSystem: FileSystem, dir: string): Promise<number[]> {
  const segments: number[] = [];
  for (const name of await fileSystem.list(dir)) {
    if (name.endsWith('.tmp')) await fileSystem.unlink(`${dir}/${name}`);
    else if (/^\d{10}\.log$/.test(name)) segments.push(Number(name.slice(0, 10)));
  }
  return segments.sort((a, b) => a - b);
}

function checkNumbers(dir: string, segments: readonly number[], { trimmed, durable }: RecoverOptions): void {
  if (!trimmed && segments[0] !== 1) throw corrupt(segmentPath(dir, 1), 'the segment is missing');
  for (let i = 1; i < segments.length; i++) {
    const expected = segments[i - 1]! + 1;
    if (segments[i] !== expected) throw corrupt(segmentPath(dir, expected), 'the segment is missing');
  }
  if (durable !== null && durable.segment > segments.at(-1)!) {
    throw corrupt(segmentPath(dir, durable.segment), 'the segment is missing, and the checkpoint names it');
  }
}

/** For readers of one sealed segment, e.g. to rebuild its index: every entry, or storage_corrupt. */
export async function scanSealedSegment(
  fileSystem: FileSystem,
  dir: string,
  segment: number,
  entry: (offset: number, payload: Buffer) => void,
): Promise<number> {
  const path = segmentPath(dir, segment);
  const header = await readHeader(fileSystem, path);
  if (header === null) throw corrupt(path, 'at offset 0: not a journal segment of this version');
  const { end } = await replaySegment(fileSystem, path, segment, true, header, {
    entry: (_segment, offset, payload) => entry(offset, payload),
  });
  return end;
}

async function readHeader(fileSystem: FileSystem, path: string): Promise<SegmentHeader | null> {
  const file = await fileSystem.open(path, 'read');
  try {
    const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES);
    const got = await file.read(bytes, 0);
    return decodeSegmentHeader(bytes.subarray(0, got));
  } finally {
    await file.close();
  }
}

interface SegmentEnd {
  readonly end: number;
  readonly tornBytes: number;
}

async function replaySegment(
  fileSystem: FileSystem,
  path: string,
  segment: number,
  sealed: boolean,
  header: SegmentHeader,
  replay: Pick<Replay, 'entry'>,
): Promise<SegmentEnd> {
  const bytes = await fileSystem.readFile(path);
  let at = SEGMENT_HEADER_BYTES;
  for (;;) {
    const size = checkEntry(bytes, at, header.marker);
    if (size < 0) break;
    const start = at + ENTRY_HEADER_BYTES;
    replay.entry(segment, at, bytes.subarray(start, start + size));
    at = start + size;
  }
  if (sealed) {
    if (at !== bytes.length) throw corrupt(path, `at offset ${at}: a damaged entry in a sealed segment`);
    return { end: at, tornBytes: 0 };
  }
  const judgement = judgeTail(bytes, at, header.marker);
  if (judgement === 'corrupt') throw corrupt(path, `at offset ${at}: a damaged entry with later ones behind it`);
  return { end: at, tornBytes: judgement === 'torn' ? bytes.length - at : 0 };
}

async function reopen(
  { fileSystem, segmentBytes }: JournalOptions,
  path: string,
  segment: number,
  firstSegment: number,
  header: SegmentHeader,
  { end, tornBytes }: SegmentEnd,
): Promise<Recovered> {
  const file = await fileSystem.open(path, 'write');
  if (tornBytes > 0) await file.truncate(end);
  if ((await file.size()) < segmentBytes) await file.truncate(segmentBytes);
  // A killed process leaves entries that are whole but were never synced: they are durable before anybody sees them.
  await file.datasync();
  return { journalId: header.journalId, marker: header.marker, firstSegment, segment, file, end, tornBytes };
}

function corrupt(path: string, detail: string): MillraceError {
  return new MillraceError('storage_corrupt', {
    detail: `${path} ${detail}.`,
    hint: 'Restore the data directory from a copy. Nothing was changed.',
  });
}
