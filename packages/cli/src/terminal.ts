import { closeSync, openSync, writeSync } from 'node:fs';
import { styleText } from 'node:util';

/** What commands write: data on stdout (or into a file), what happened on stderr. */

export type NoticeKind = 'done' | 'batch' | 'aborted' | 'note';

const STYLES: Record<NoticeKind, Parameters<typeof styleText>[0]> = {
  done: ['green', 'bold'],
  batch: ['blue', 'bold'],
  aborted: ['red', 'bold'],
  note: 'dim',
};

/** One line on stderr, in colour when that is a terminal. */
export function notice(kind: NoticeKind, text: string): void {
  process.stderr.write(`${styleText(STYLES[kind], text, { stream: process.stderr })}\n`);
}

export interface Output {
  /** Resolves when more may be written. */
  write(text: string): Promise<void>;
  close(): void;
}

export const standardOutput: Output = {
  async write(text) {
    if (text === '' || process.stdout.write(text)) return;
    await new Promise((resolve) => process.stdout.once('drain', resolve));
  },
  close() {},
};

/** `-` is stdout; a file is truncated. */
export function openOutput(path: string): Output {
  if (path === '-') return standardOutput;
  const file = openSync(path, 'w');
  return {
    async write(text) {
      // A write to a disk may be cut short.
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
    },
    close: () => closeSync(file),
  };
}

/** `millrace read ... | head` closes our stdout early: that is the end of the work, not a failure. */
export function endQuietlyOnClosedPipe(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(0);
  });
}

export const INTERRUPTED_EXIT_CODE = 130;

/** For commands that last: Ctrl-C ends them at once, as in S2's CLI. */
export function abortOnInterrupt(): void {
  process.once('SIGINT', () => {
    notice('aborted', '■ [ABORTED]');
    process.exit(INTERRUPTED_EXIT_CODE);
  });
}
