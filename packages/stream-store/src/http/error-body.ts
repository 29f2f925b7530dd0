import { MillraceError } from '@millrace/core/error';
import { S2Error } from '../s2-error.ts';

/** The JSON body of an error answer; the 412 and 416 codes have shapes of their own. */
export function errorBody(error: S2Error): string {
  switch (error.code) {
    case 'fencing_token_mismatch':
      return `{"fencing_token_mismatch":${JSON.stringify(error.fencingToken ?? '')}}`;
    case 'seq_num_mismatch':
      return `{"seq_num_mismatch":${error.seqNum ?? 0}}`;
    case 'range_not_satisfiable': {
      const tail = error.tail ?? { seqNum: 0, timestamp: 0n };
      return `{"tail":{"seq_num":${tail.seqNum},"timestamp":${tail.timestamp}}}`;
    }
    default:
      return `{"code":"${error.code}","message":${JSON.stringify(error.message)}}`;
  }
}

/**
 * What a client is told about any failure. Whatever is not an S2Error is a bug or a failed disk: neither promises
 * "no side effects", and neither shows what was thrown.
 */
export function toS2Error(error: unknown): S2Error {
  if (error instanceof S2Error) return error;
  if (error instanceof MillraceError && error.code === 'storage_closed') {
    return new S2Error('unavailable', 'The store is closed.', { cause: error });
  }
  if (error instanceof MillraceError && error.code.startsWith('storage_')) {
    return new S2Error('storage', 'The storage failed.', { cause: error });
  }
  return new S2Error('other', 'Internal error.', { cause: error });
}
