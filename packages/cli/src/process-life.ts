import { INTERRUPTED_EXIT_CODE, notice } from './terminal.ts';

/** How the commands that serve (demo, start, store) live: a signal stops them in order, a second one at once. */
export interface Life {
  /** Aborted by the first SIGINT, SIGTERM or SIGHUP. */
  readonly stop: AbortSignal;
  /** Resolves with the signal's name. */
  readonly stopped: Promise<string>;
  /**
   * From now on SIGHUP runs `reload` instead of stopping, as for any daemon. On a terminal it still stops: there it means
   * that the terminal is gone.
   */
  onHangup(reload: () => void): void;
}

/** One Ctrl-C arrives twice when the terminal and npm both pass it on. */
const SAME_SIGNAL_MS = 1000;

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

export function superviseProcess(): Life {
  const abort = new AbortController();
  const { promise: stopped, resolve } = Promise.withResolvers<string>();
  let firstAtMs = 0;
  let hangup: (() => void) | null = null;
  for (const signal of SIGNALS) {
    process.on(signal, () => {
      if (signal === 'SIGHUP' && hangup !== null && !abort.signal.aborted) {
        hangup();
        return;
      }
      if (abort.signal.aborted) {
        if (performance.now() - firstAtMs > SAME_SIGNAL_MS) process.exit(INTERRUPTED_EXIT_CODE);
        return;
      }
      firstAtMs = performance.now();
      abort.abort();
      resolve(signal);
    });
  }
  return {
    stop: abort.signal,
    stopped,
    onHangup(reload) {
      if (!process.stdin.isTTY) hangup = reload;
    },
  };
}

/** The root token is in no file in readable form: this is the one time to see it. */
export function announceRootToken(token: string, url: string): void {
  process.stderr.write(
    `Root token of this store, shown only this once. It may do everything:\n\n  export S2_ACCESS_TOKEN=${token}\n  export MILLRACE_ENDPOINT=${url}\n\n`,
  );
}

export function log(line: string): void {
  notice('note', line);
}
