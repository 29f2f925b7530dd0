import type { StreamCipher } from '../model.ts';
import { S2Error } from '../s2-error.ts';
import type { AppendInput } from '../store.ts';
import { recordCipher } from './record-cipher.ts';

/** Why a stream with a cipher does not take an append whose preconditions hold; null: it does. */
export function refuseAppend(cipher: StreamCipher, input: AppendInput, firstSeqNum: number): S2Error | null {
  if (input.sealed !== true) return recordsInTheClear();
  const seqNumMax = recordCipher(cipher).seqNumMax;
  if (firstSeqNum + input.scan.count - 1 <= seqNumMax) return null;
  return new S2Error('invalid', `A stream encrypted with ${cipher} holds no sequence number above ${seqNumMax}.`);
}

export function recordsInTheClear(): S2Error {
  return new S2Error('bad_header', 'The stream is encrypted: records have to come with a key.');
}
