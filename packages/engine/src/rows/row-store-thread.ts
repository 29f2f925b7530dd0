/** The thread that writes the row index, so that its syncs and B-trees hold up neither capture nor delivery. */
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '@millrace/core/assert';
import type { Position } from '@millrace/core/position';
import { isDamage, RowStore } from './row-store.ts';

export type RowStoreRequest =
  | { readonly id: number; readonly kind: 'begin'; readonly position: Position }
  | { readonly id: number; readonly kind: 'apply'; readonly bytes: Uint8Array; readonly through: Position }
  | { readonly id: number; readonly kind: 'collect'; readonly lsn: bigint }
  | { readonly id: number; readonly kind: 'forget'; readonly oids: readonly number[] }
  | { readonly id: number; readonly kind: 'clear' }
  | { readonly id: number; readonly kind: 'close' };

export interface RowStoreAnswer {
  readonly id: number;
  readonly incarnation: string;
  readonly position: Position | null;
  readonly resets: number;
  /** Set when the request failed. `errcode`: SQLite's. `damaged`: the file cannot be read and has to be made anew. */
  readonly failure?: {
    readonly message: string;
    readonly errcode: number | undefined;
    readonly damaged: boolean;
    readonly follows: boolean;
  };
}

const port = parentPort;
assert(port !== null, 'the row store runs in a thread of its own');
const { file } = workerData as { readonly file: string };
let store: RowStore | null = null;
/** A batch failed: the ones sent behind it would leave a gap. */
let broken = false;
const FOLLOWS = 'the batch before failed';

port.on('message', (request: RowStoreRequest) => {
  let resets = 0;
  try {
    store ??= RowStore.open(file);
    switch (request.kind) {
      case 'begin':
        store.begin(request.position);
        broken = false;
        break;
      case 'apply': {
        if (broken) throw new Error(FOLLOWS);
        const { buffer, byteOffset, byteLength } = request.bytes;
        resets = store.apply(Buffer.from(buffer, byteOffset, byteLength), request.through).resets;
        break;
      }
      case 'collect':
        while (store.collect(request.lsn));
        break;
      case 'forget':
        store.forget(request.oids);
        break;
      case 'clear':
        store.close();
        RowStore.remove(file);
        store = RowStore.open(file);
        break;
      case 'close':
        store.close();
        break;
    }
    answer({ id: request.id, incarnation: store.incarnation, position: store.position, resets });
    if (request.kind === 'close') port.close();
  } catch (error) {
    if (request.kind === 'apply') broken = true;
    // What cannot be read is made anew, by whoever asks next.
    if (store !== null && isDamage(error)) {
      store.close();
      RowStore.remove(file);
      store = null;
    }
    const { message, errcode } = error as { message: string; errcode?: number };
    const failure = { message, errcode, damaged: isDamage(error), follows: broken && message === FOLLOWS };
    answer({
      id: request.id,
      incarnation: store?.incarnation ?? '',
      position: store?.position ?? null,
      resets,
      failure,
    });
  }
});

function answer(message: RowStoreAnswer): void {
  port!.postMessage(message);
}
