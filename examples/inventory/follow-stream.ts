/** Reads a stream from its beginning, or from where it ends now, and goes on as records come. */
import { S2, S2Error } from '@s2-dev/streamstore';
import type { ShopMessage } from './shop-message.ts';

export const BASIN = 'shop-events';
const RETRY_MS = 200;

export interface Store {
  readonly url: string;
  readonly token: string;
}

export function connect({ url, token }: Store): S2 {
  return new S2({ accessToken: token, endpoints: { account: url, basin: url } });
}

/**
 * Calls back for each message, in order, one at a time. Resolves on the signal. A connection that is lost is made again
 * from the record after the last one that was handled.
 */
export async function followStream<Row>(
  store: Store,
  name: string,
  from: 'beginning' | 'end',
  onMessage: (message: ShopMessage<Row>, seqNum: number) => Promise<void> | void,
  signal: AbortSignal,
): Promise<void> {
  const stream = connect(store).basin(BASIN).stream(name);
  let next = from === 'beginning' ? 0 : (await stream.checkTail()).tail.seqNum;
  while (!signal.aborted) {
    try {
      const session = await stream.readSession({ start: { from: { seqNum: next } } }, { signal });
      for await (const { body, seqNum } of session) {
        await onMessage(JSON.parse(body) as ShopMessage<Row>, seqNum);
        next = seqNum + 1;
      }
    } catch (error) {
      if (signal.aborted) break;
      // What a handler throws is not the store's fault.
      if (!(error instanceof S2Error)) throw error;
    }
    if (!signal.aborted) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
  await stream.close();
}
