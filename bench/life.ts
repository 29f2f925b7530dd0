/** Runs the work of one invocation and cleans up after it, also when it is interrupted. */
import { constants } from 'node:os';
import { Session, type Settings } from './session.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Ends the process: 0, 1 when the work failed, 128 + signal when it was interrupted. A second signal changes nothing. */
export async function runSession(settings: Settings, work: (session: Session) => Promise<void>): Promise<never> {
  const interrupted = new AbortController();
  let signalled = 0;
  for (const name of SIGNALS) {
    process.on(name, () => {
      if (signalled !== 0) return;
      signalled = constants.signals[name];
      process.stderr.write('bench: interrupted, cleaning up\n');
      interrupted.abort(new Error(`Interrupted by ${name}.`));
    });
  }
  const session = new Session(settings, interrupted.signal);
  const interruption = new Promise<never>((_, reject) => {
    interrupted.signal.addEventListener('abort', () => reject(interrupted.signal.reason), { once: true });
  });
  let failed = false;
  try {
    const working = work(session);
    // What an interrupted work still says after its clients and its Postgres were taken away is of no interest.
    working.catch(() => {});
    await Promise.race([working, interruption]);
  } catch (error) {
    failed = true;
    if (signalled === 0)
      process.stderr.write(`bench: ${error instanceof Error ? (error.stack ?? error.message) : error}\n`);
  }
  interruption.catch(() => {});
  await session.end();
  process.exit(signalled !== 0 ? 128 + signalled : failed ? 1 : 0);
}
