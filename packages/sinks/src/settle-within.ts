/** An end for what a client library may never settle. */
import { MillraceError } from '@millrace/core/error';

/**
 * What `work` says, unless it takes longer than `timeoutMs` or the signal comes: then `sink_unavailable`. The work goes
 * on; whoever asked has to end it.
 */
export function settleWithin<T>(timeoutMs: number, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const settle = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', aborted);
    };
    const aborted = () => {
      settle();
      reject(new MillraceError('sink_unavailable', { detail: 'The sink was stopped meanwhile.' }));
    };
    const timer = setTimeout(() => {
      settle();
      reject(new MillraceError('sink_unavailable', { detail: `No answer within ${timeoutMs} ms.` }));
    }, timeoutMs);
    signal.addEventListener('abort', aborted, { once: true });
    if (signal.aborted) return aborted();
    work().then(
      (value) => {
        settle();
        resolve(value);
      },
      (error) => {
        settle();
        reject(error);
      },
    );
  });
}
