import type { Lsn } from '@millrace/core/lsn';
import type { SourceState } from './source-state.ts';

/** Idle acknowledgements are written down first; not more often than this. */
const IDLE_ACKNOWLEDGE_MS = 1_000;

/**
 * Of one connection: confirms what the log holds at once. A position beyond the log's end (an idle or filtered database) is
 * first written down, so that after a restart a slot that stands there is known to be ours and not one that was moved.
 */
export class IdleAcknowledger {
  readonly #state: Pick<SourceState, 'identity' | 'save'>;
  readonly #log: { readonly endLsn: Lsn; readonly durableSeq: number };
  readonly #send: (lsn: Lsn) => void;
  #wanted: Lsn = 0n;
  #confirmed: Lsn = 0n;
  #timer: NodeJS.Timeout | null = null;
  #ended = false;

  constructor(
    state: Pick<SourceState, 'identity' | 'save'>,
    log: { readonly endLsn: Lsn; readonly durableSeq: number },
    send: (lsn: Lsn) => void,
  ) {
    this.#state = state;
    this.#log = log;
    this.#send = send;
  }

  acknowledge(lsn: Lsn): void {
    if (lsn <= this.#log.endLsn) {
      this.#confirm(lsn);
      return;
    }
    this.#wanted = lsn;
    this.#later();
  }

  /** The connection has ended: nothing is written down any more, which would pass for a position of the next server. */
  end(): void {
    this.#ended = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  #confirm(lsn: Lsn): void {
    if (lsn <= this.#confirmed) return;
    this.#confirmed = lsn;
    this.#send(lsn);
  }

  #later(): void {
    if (this.#ended) return;
    this.#timer ??= setTimeout(() => void this.#write(), IDLE_ACKNOWLEDGE_MS);
    this.#timer.unref();
  }

  async #write(): Promise<void> {
    const { identity } = this.#state;
    const lsn = this.#wanted;
    if (identity !== null && lsn > identity.acknowledged) {
      try {
        await this.#state.save({ ...identity, acknowledged: lsn, logRecords: this.#log.durableSeq });
      } catch {
        this.#timer = null;
        return; // The store has failed and ends the process; nothing may be confirmed.
      }
    }
    this.#confirm(lsn);
    this.#timer = null;
    if (this.#wanted > lsn) this.#later();
  }
}
