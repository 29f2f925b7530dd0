import { MillraceError } from '@millrace/core/error';
import { isPack, parseFileName, segmentPath } from './file-names.ts';
import { type FileSystem, isMissing } from './file-system.ts';
import { createSegment, type JournalOptions, type JournalTip } from './journal.ts';
import type { RemoteFiles } from './remote-files.ts';
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
  /** The segment to go on with has to be made: all there are are sealed, and elsewhere. As JournalHooks.startSegment. */
  startSegment(segment: number): readonly Uint8Array[];
}

export interface RecoverOptions extends JournalOptions {
  /** The first segment of the store; earlier ones are leftovers. null: old ones are deleted, the first has any number. */
  readonly firstSegment: number | null;
  /** A position known to have been durable, from a checkpoint. */
  readonly durable: { readonly segment: number; readonly offset: number } | null;
}

export interface Recovered extends JournalTip {
  /** Bytes of a torn write that were cut off. */
  readonly tornBytes: number;
}

export async function recoverJournal(options: RecoverOptions, replay: Replay): Promise<Recovered> {
  const { dir, fileSystem, durable } = options;
  const remote = options.remote ?? null;
  await fileSystem.makeDir(dir);
  const local = await listSegments(fileSystem, dir);
  const segments = withRemote(local, remote, options.firstSegment);
  if (segments.length === 0) {
    if (durable !== null) throw corrupt(dir, 'the journal is gone, but its checkpoint is there');
    return await createJournal(options);
  }
  checkNumbers(dir, segments, options);

  const here = new Set(local);
  const last = segments.at(-1)!;
  const sealedSegments = new Map<number, number>();
  let first: SegmentHeader | null = null;
  let tip: Recovered | null = null;
  for (const segment of segments) {
    const path = segmentPath(dir, segment);
    const sealed = segment !== last || !here.has(segment);
    const elsewhere = here.has(segment) ? null : remote;
    const { header, size } =
      elsewhere === null ? await readHeader(fileSystem, path) : await readRemoteHeader(elsewhere, segment, path);
    if (sealed) sealedSegments.set(segment, size);
    if (header === null) throw corrupt(path, 'at offset 0: not a journal segment of this version');
    first ??= header;
    if (header.segment !== segment || header.journalId !== first.journalId || header.marker !== first.marker) {
      throw corrupt(path, 'at offset 0: the segment belongs to another place or journal');
    }
    // Where the front is deleted, the last segment is read although it is sealed: it says what the streams came to.
    const skippable = sealed && (segment !== last || options.firstSegment !== null);
    if ((await replay.segment(segment, skippable, header)) === 'skip' && skippable) continue;
    const bytes = elsewhere === null ? await fileSystem.readFile(path) : await elsewhere.readWhole(segment);
    if (bytes === null) throw corrupt(path, 'the segment is missing');
    const end = replaySegment(bytes, path, segment, sealed, header, replay);
    if (durable !== null && durable.segment === segment && end.end < durable.offset) {
      throw corrupt(
        path,
        `at offset ${end.end}: damaged, and the checkpoint says it was durable up to ${durable.offset}`,
      );
    }
    await replay.segmentEnd(segment, end.end, sealed);
    if (!sealed) {
      tip = { ...(await reopen(options, path, segment, header, end)), firstSegment: segments[0]!, sealedSegments };
    }
  }
  return tip ?? (await startNext(options, segments[0]!, last + 1, first!, sealedSegments, replay));
}

async function createJournal(options: JournalOptions): Promise<Recovered> {
  const identity = newJournalIdentity();
  const { file, end } = await createSegment(options, { ...identity, segment: 1 }, []);
  return { ...identity, firstSegment: 1, segment: 1, file, end, tornBytes: 0, sealedSegments: new Map() };
}

async function startNext(
  options: JournalOptions,
  firstSegment: number,
  segment: number,
  { journalId, marker }: SegmentHeader,
  sealedSegments: ReadonlyMap<number, number>,
  replay: Replay,
): Promise<Recovered> {
  const { file, end } = await createSegment(options, { journalId, marker, segment }, replay.startSegment(segment));
  return { journalId, marker, firstSegment, segment, file, end, tornBytes: 0, sealedSegments };
}

async function listSegments(fileSystem: FileSystem, dir: string): Promise<number[]> {
  const segments: number[] = [];
  for (const name of await fileSystem.list(dir)) {
    const named = parseFileName(name);
    if (named?.kind === 'temporary') await fileSystem.unlink(`${dir}/${name}`);
    else if (named?.kind === 'log' && !isPack(named.file)) segments.push(named.file);
  }
  return segments.sort((a, b) => a - b);
}

/**
 * All segments of the store, in order. Where the front is deleted, another place may still hold some of what was: those
 * count only as far as they reach back from the local ones without a gap.
 */
function withRemote(local: readonly number[], remote: RemoteFiles | null, firstSegment: number | null): number[] {
  const all = new Set(local);
  if (remote !== null) for (const file of remote.files()) if (!isPack(file)) all.add(file);
  const segments = [...all].filter((segment) => segment >= (firstSegment ?? 1)).sort((a, b) => a - b);
  if (remote === null || firstSegment !== null) return segments;
  let from = local.length > 0 ? segments.indexOf(local[0]!) : segments.length - 1;
  while (from > 0 && segments[from - 1] === segments[from]! - 1) from--;
  return segments.slice(Math.max(0, from));
}

function checkNumbers(dir: string, segments: readonly number[], { firstSegment, durable }: RecoverOptions): void {
  if (firstSegment !== null && segments[0] !== firstSegment) {
    throw corrupt(segmentPath(dir, firstSegment), 'the segment is missing');
  }
  for (let i = 1; i < segments.length; i++) {
    const expected = segments[i - 1]! + 1;
    if (segments[i] !== expected) throw corrupt(segmentPath(dir, expected), 'the segment is missing');
  }
  if (durable !== null && durable.segment > segments.at(-1)!) {
    throw corrupt(segmentPath(dir, durable.segment), 'the segment is missing, and the checkpoint names it');
  }
}

/** A sealed file read to its end, as far as a reader of its batches needs it. */
export interface ScannedFile {
  readonly bytes: number;
  readonly header: SegmentHeader;
}

/**
 * For readers of one sealed segment or pack, e.g. to rebuild its index: every entry, or storage_corrupt. null: the file
 * is gone, here and elsewhere.
 */
export async function scanSealedFile(
  fileSystem: FileSystem,
  dir: string,
  file: number,
  remote: RemoteFiles | null,
  entry: (offset: number, payload: Buffer) => void,
): Promise<ScannedFile | null> {
  const path = segmentPath(dir, file);
  let bytes: Buffer | null;
  try {
    bytes = await fileSystem.readFile(path);
  } catch (error) {
    if (!isMissing(error)) throw error;
    bytes = remote === null ? null : await remote.readWhole(file);
  }
  if (bytes === null) return null;
  const header = decodeSegmentHeader(bytes);
  if (header === null) throw corrupt(path, 'at offset 0: not a journal segment of this version');
  if (header.segment !== file) throw corrupt(path, 'at offset 0: the file belongs to another place');
  const { end } = replaySegment(bytes, path, file, true, header, {
    entry: (_file, offset, payload) => entry(offset, payload),
  });
  return { bytes: end, header };
}

interface FoundHeader {
  readonly header: SegmentHeader | null;
  /** Of the file. */
  readonly size: number;
}

async function readHeader(fileSystem: FileSystem, path: string): Promise<FoundHeader> {
  const file = await fileSystem.open(path, 'read');
  try {
    const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES);
    const got = await file.read(bytes, 0);
    return { header: decodeSegmentHeader(bytes.subarray(0, got)), size: await file.size() };
  } finally {
    await file.close();
  }
}

async function readRemoteHeader(remote: RemoteFiles, segment: number, path: string): Promise<FoundHeader> {
  const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES);
  if (!(await remote.read(segment, bytes, 0))) throw corrupt(path, 'the segment is missing');
  return { header: decodeSegmentHeader(bytes), size: remote.size(segment) ?? 0 };
}

interface SegmentEnd {
  readonly end: number;
  readonly tornBytes: number;
}

function replaySegment(
  bytes: Buffer,
  path: string,
  segment: number,
  sealed: boolean,
  header: SegmentHeader,
  replay: Pick<Replay, 'entry'>,
): SegmentEnd {
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
  header: SegmentHeader,
  { end, tornBytes }: SegmentEnd,
): Promise<Omit<Recovered, 'firstSegment' | 'sealedSegments'>> {
  const file = await fileSystem.open(path, 'write');
  if (tornBytes > 0) await file.truncate(end);
  if ((await file.size()) < segmentBytes) await file.truncate(segmentBytes);
  // A killed process leaves entries that are whole but were never synced: they are durable before anybody sees them.
  await file.datasync();
  return { journalId: header.journalId, marker: header.marker, segment, file, end, tornBytes };
}

function corrupt(path: string, detail: string): MillraceError {
  return new MillraceError('storage_corrupt', {
    detail: `${path} ${detail}.`,
    hint: 'Restore the data directory from a copy. Nothing was changed.',
  });
}
