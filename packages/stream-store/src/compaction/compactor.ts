import { assert } from '@millrace/core/assert';
import { backoffMs } from '@millrace/core/backoff';
import type { Clock } from '@millrace/core/clock';
import type { MillraceError } from '@millrace/core/error';
import type { Checkpoints, WrittenCheckpoint } from '../checkpoints.ts';
import { checkpointName } from '../journal/file-names.ts';
import type { FileSystem } from '../journal/file-system.ts';
import { storageError } from '../journal/journal.ts';
import {
  COMPACTION_BUSY_BYTES_PER_SEC_MAX,
  COMPACTION_BYTES_PER_SEC_MAX,
  COMPACTION_EVERY_MS,
  COMPACTION_RETRY_MS_MAX,
} from '../limits.ts';
import { S2Error } from '../s2-error.ts';
import type { Shelf } from '../store-core.ts';
import { CompactionRun } from './compaction-run.ts';
import type { FileObserver } from './file-observer.ts';
import { type Manifest, writeManifest } from './manifest.ts';
import { type CompactionPlan, planCompaction } from './policy.ts';
import type { StoreFiles } from './store-files.ts';
import type { StreamLives } from './stream-lives.ts';
import { Survey } from './survey.ts';
import { CompactionStopped, CompactionThrottle, rest } from './throttle.ts';

/*
 * Compaction of the main journal, in the background. One compaction, step by step; what a crash after a step leaves:
 *
 *   1 expire      trims of what outlived the retention, in the journal         nothing to see
 *   2 checkpoint  one behind the segments that are to go: base of the manifest  a checkpoint more
 *   3 packs       p*.log.tmp written, synced, renamed, directory synced; p*.idx  leftovers, removed by the next start
 *   4 manifest    replaced: from here on the packs are the store, the inputs leftovers
 *   5 places      of every stream in memory; readers that met a file that is gone look again
 *   6 deletion    of the inputs, oldest first                                    leftovers, removed by the next start
 *
 * A failure up to 3 is undone and tried again later. A failure in 4 leaves open which manifest is durable: everything
 * that either names is kept, and the same manifest is written again until that works. Nothing acknowledged depends on
 * any of it, so no failure here ends the store.
 */

export interface CompactorOptions {
  readonly fileSystem: FileSystem;
  readonly clock: Clock;
  readonly main: Shelf;
  readonly checkpoints: Checkpoints;
  readonly files: StoreFiles;
  readonly lives: StreamLives;
  readonly trim: (streamId: number, seqNum: number) => Promise<void>;
  /** True while appends are under way. */
  readonly busy: () => boolean;
  readonly observer: FileObserver | null;
  /** One line for the operator: a failure, or what was done. */
  readonly log: (line: string) => void;
}

export interface CompactionResult {
  readonly why: CompactionPlan['why'];
  /** Store clock, of the end. */
  readonly atMs: number;
  readonly tookMs: number;
  readonly filesBefore: number;
  readonly filesAfter: number;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

export interface CompactionStatus {
  readonly state: 'idle' | 'running' | 'stopped';
  readonly runs: number;
  readonly failures: number;
  /** Of the last attempt; null when it worked. */
  readonly failure: { readonly code: string; readonly text: string; readonly atMs: number } | null;
  readonly last: CompactionResult | null;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly bytesReclaimed: number;
  /** Of the compaction under way. */
  readonly progress: { readonly why: CompactionPlan['why']; inputBytes: number; writtenBytes: number } | null;
  /** Sealed bytes that no compaction has seen, and of all sealed bytes those known to be dead. */
  readonly backlogBytes: number;
  readonly deadBytes: number;
  readonly liveBytes: number;
}

/** A commit of which it is not known whether it is durable. */
interface Commit {
  readonly run: CompactionRun;
  readonly manifest: Manifest;
  readonly base: WrittenCheckpoint | null;
}

export class Compactor {
  readonly #options: CompactorOptions;
  readonly #survey: Survey;
  readonly #throttle: CompactionThrottle;
  readonly #stopping = new AbortController();
  #loop: Promise<void> | null = null;
  /** Rounds are run one after another: the loop's and those asked for. */
  #rounds: Promise<void> = Promise.resolve();
  #unsure: Commit | null = null;
  /** Packs replaced but not yet deleted. */
  readonly #undeleted: number[] = [];
  #attempt = 0;
  #runs = 0;
  #failures = 0;
  #failure: CompactionStatus['failure'] = null;
  #last: CompactionResult | null = null;
  #bytesRead = 0;
  #bytesWritten = 0;
  #bytesReclaimed = 0;
  #progress: { readonly why: CompactionPlan['why']; inputBytes: number; writtenBytes: number } | null = null;

  constructor(options: CompactorOptions) {
    this.#options = options;
    const { busy } = options;
    this.#throttle = new CompactionThrottle({
      bytesPerSec: COMPACTION_BYTES_PER_SEC_MAX,
      busyBytesPerSec: COMPACTION_BUSY_BYTES_PER_SEC_MAX,
      busy,
    });
    this.#survey = new Survey(options);
  }

  start(): void {
    assert(this.#loop === null, 'compaction is started once');
    this.#loop = this.#run();
  }

  /** Resolves when nothing of it touches the directory any more. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#throttle.stop();
    await this.#loop;
    await this.#rounds;
  }

  /**
   * Compacts everything that is sealed now, whatever the policy says, as fast as it goes. Rejects with what went wrong,
   * if something did.
   */
  compactNow(): Promise<void> {
    const round = this.#rounds.then(async () => {
      const throttle = new CompactionThrottle(null);
      const stop = () => throttle.stop();
      this.#stopping.signal.addEventListener('abort', stop, { once: true });
      if (this.#stopping.signal.aborted) stop();
      try {
        await this.#round(throttle, this.#options.main.journal.segment);
      } finally {
        this.#stopping.signal.removeEventListener('abort', stop);
      }
    });
    this.#rounds = round.catch(() => {});
    return round;
  }

  status(): CompactionStatus {
    const { main, files } = this.#options;
    const { liveBytes, deadBytes } = this.#survey.totals();
    let backlogBytes = 0;
    for (const [segment, bytes] of main.journal.sealedSegments) {
      if (segment >= files.firstSegment) backlogBytes += bytes;
    }
    return {
      state: this.#stopping.signal.aborted ? 'stopped' : this.#progress === null ? 'idle' : 'running',
      runs: this.#runs,
      failures: this.#failures,
      failure: this.#failure,
      last: this.#last,
      bytesRead: this.#bytesRead,
      bytesWritten: this.#bytesWritten,
      bytesReclaimed: this.#bytesReclaimed,
      progress: this.#progress === null ? null : { ...this.#progress },
      backlogBytes,
      deadBytes,
      liveBytes,
    };
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      const retryMs = backoffMs(this.#attempt, { minMs: COMPACTION_EVERY_MS, maxMs: COMPACTION_RETRY_MS_MAX });
      await rest(this.#attempt === 0 ? COMPACTION_EVERY_MS : retryMs, signal);
      if (signal.aborted) break;
      const round = this.#rounds.then(() => this.#round(this.#throttle, null));
      // What went wrong is in the status and was logged; the next round tries again.
      this.#rounds = round.catch(() => {});
      await this.#rounds;
    }
  }

  /** All that is due. `everythingBefore`: also what is not, of segments before that one and of packs. */
  async #round(throttle: CompactionThrottle, everythingBefore: number | null): Promise<void> {
    try {
      await this.#finishUnsure();
      await this.#delete();
      for (let first = true; ; first = false) {
        if (this.#options.main.journal.dead !== null) return;
        const plan = await this.#plan(throttle, everythingBefore, first);
        if (plan === null) break;
        await this.#compact(plan, throttle);
      }
      this.#attempt = 0;
      this.#failure = null;
    } catch (cause) {
      if (cause instanceof CompactionStopped) return;
      throw this.#failed(cause);
    } finally {
      this.#progress = null;
    }
  }

  /** Who wants everything compacted has every file looked at, once; what is written meanwhile is looked at anyway. */
  async #plan(
    throttle: CompactionThrottle,
    everythingBefore: number | null,
    first: boolean,
  ): Promise<CompactionPlan | null> {
    const { main, files, checkpoints } = this.#options;
    const segments: number[] = [];
    const end = everythingBefore ?? main.journal.segment;
    for (let segment = files.firstSegment; segment < end; segment++) segments.push(segment);
    const everything = everythingBefore !== null;
    await this.#survey.look([...segments, ...files.packs.map(({ file }) => file)], everything && first, throttle);
    const { lives } = this.#survey;
    return planCompaction({
      segments: segments.map((segment) => lives.get(segment)!),
      packs: files.packs,
      lives,
      checkpointSegment: checkpoints.newest?.segment ?? 0,
      checkpointBytes: checkpoints.lastBytes,
      everything,
    });
  }

  async #compact(plan: CompactionPlan, throttle: CompactionThrottle): Promise<void> {
    const { fileSystem, clock, main, checkpoints, files, lives, trim } = this.#options;
    const startedAt = performance.now();
    const progress = { why: plan.why, inputBytes: plan.bytes, writtenBytes: 0 };
    this.#progress = progress;
    const run = new CompactionRun(plan, {
      fileSystem,
      journal: main.journal,
      index: main.index,
      lives,
      throttle,
      trim,
      nowMs: clock.now(),
      takePack: () => files.takePack(),
      progress: (readBytes, writtenBytes) => {
        this.#bytesRead += readBytes;
        this.#bytesWritten += writtenBytes;
        progress.writtenBytes += writtenBytes;
      },
    });
    let base: WrittenCheckpoint | null = null;
    try {
      await run.expire();
      base = await this.#baseFor(plan);
      await run.write();
      // A stop is heeded up to here; what follows is short.
      await throttle.turn();
    } catch (error) {
      await run.abandon();
      // Not when the manifest that holds names it, too: then it stands for segments that are gone.
      if (base !== null && base.name !== files.manifest?.base) await this.#release(base.name);
      throw error;
    }
    await this.#commit({ run, base, manifest: this.#nextManifest(run, base) });
    this.#note(run, startedAt);
    assert(checkpoints.newest !== null, 'a compacted store has a checkpoint');
  }

  /** A durable checkpoint behind the segments that go. null: none go, the base stays. */
  async #baseFor(plan: CompactionPlan): Promise<WrittenCheckpoint | null> {
    const last = plan.segments.at(-1);
    if (last === undefined) return null;
    const { checkpoints, main } = this.#options;
    const { newest } = checkpoints;
    // One of a store made before there was compaction has a name that no manifest can hold.
    const usable = newest !== null && newest.segment > last && newest.name === checkpointName(newest);
    const base = usable ? newest : await checkpoints.write(main.journal);
    // Before anything else is awaited: a newer one would remove it.
    checkpoints.keep(base.name);
    return base;
  }

  #nextManifest(run: CompactionRun, base: WrittenCheckpoint | null): Manifest {
    const { files } = this.#options;
    const { plan } = run;
    const packs = [...files.packs];
    const at = plan.packs.length === 0 ? packs.length : packs.findIndex(({ file }) => file === plan.packs[0]!.file);
    packs.splice(at, plan.packs.length, ...run.entries(files.generation + 1));
    const firstSegment = plan.segments.length === 0 ? files.firstSegment : plan.segments.at(-1)! + 1;
    const name = base?.name ?? files.manifest?.base;
    assert(name !== undefined, 'packs come from segments, whose compaction made a base');
    return files.next({ base: name, firstSegment, packs });
  }

  async #commit(commit: Commit): Promise<void> {
    const { fileSystem, main, files, checkpoints, observer } = this.#options;
    const { run, manifest, base } = commit;
    // Until it is known to be durable: a failed rename or sync of the directory may have worked or not.
    this.#unsure = commit;
    await writeManifest(fileSystem, main.journal.dir, manifest);
    this.#unsure = null;
    const baseBefore = files.manifest?.base;
    files.replacing(manifest);
    observer?.committed(manifest);
    await run.replacePlaces();
    files.replaced();
    main.index.replacements++;
    // The newest checkpoint names files that go.
    checkpoints.makeDue();
    for (const file of run.inputs) {
      main.index.forget(file);
      this.#survey.forget(file);
    }
    this.#undeleted.push(...run.plan.packs.map(({ file }) => file));
    if (base !== null && baseBefore !== undefined && baseBefore !== base.name) await this.#release(baseBefore);
    await this.#delete();
  }

  async #finishUnsure(): Promise<void> {
    if (this.#unsure !== null) await this.#commit(this.#unsure);
  }

  /** Files that are no part of the store any more. What cannot be deleted now is tried again, and by the next start. */
  async #delete(): Promise<void> {
    const { main, files } = this.#options;
    await main.index.settled();
    if (main.journal.firstSegment < files.firstSegment) await main.journal.deleteBefore(files.firstSegment);
    if (this.#undeleted.length === 0) return;
    const packs = [...this.#undeleted];
    await main.journal.deletePacks(packs);
    this.#undeleted.splice(0, packs.length);
  }

  /** A checkpoint that cannot be removed is a leftover. */
  async #release(name: string): Promise<void> {
    await this.#options.checkpoints.release(name).catch(() => {});
  }

  #note(run: CompactionRun, startedAt: number): void {
    const { plan } = run;
    const bytesAfter = run.packs.reduce((total, pack) => total + pack.bytes, 0);
    this.#runs++;
    this.#bytesReclaimed += plan.bytes - bytesAfter;
    this.#last = {
      why: plan.why,
      atMs: this.#options.clock.now(),
      tookMs: Math.round(performance.now() - startedAt),
      filesBefore: run.inputs.size,
      filesAfter: run.packs.length,
      bytesBefore: plan.bytes,
      bytesAfter,
    };
  }

  #failed(cause: unknown): MillraceError {
    const { main, clock, log } = this.#options;
    const error = storageError(cause instanceof S2Error ? cause.cause : cause, main.journal.dir);
    this.#attempt++;
    this.#failures++;
    this.#failure = { code: error.code, text: error.message, atMs: clock.now() };
    log(`Compaction failed and is tried again later; nothing is lost. ${error.message} (${error.code})`);
    return error;
  }
}
