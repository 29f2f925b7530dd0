import { isUtf8 } from 'node:buffer';
import {
  BATCH_METERED_BYTES_MAX,
  BATCH_RECORDS_MAX,
  FENCING_TOKEN_BYTES_MAX,
  RECORD_METERED_BYTES_MAX,
} from './limits.ts';
import { COMMAND_FENCE, COMMAND_NONE, COMMAND_TRIM, type CommandKind, commandOf } from './record-commands.ts';
import { RecordCursor } from './record-cursor.ts';
import { S2Error } from './s2-error.ts';
import type { AppendScan } from './store.ts';

/** What an append has to be before it is admitted. HOT PATH. */

/**
 * One pass over the records of an append, which is the only way they are admitted: bad_proto when they are not
 * protobuf, invalid when they break a rule of the API (batch and record limits, header names, command records).
 * A whole AppendInput message is fine too: its other fields are skipped.
 */
export function scanAppendRecords(bytes: Uint8Array): AppendScan {
  const cursor = new RecordCursor(bytes, 'append');
  let count = 0;
  let meteredBytes = 0;
  let timestamped = 0;
  let hasFence = false;
  let hasTrim = false;
  while (cursor.next()) {
    if (++count > BATCH_RECORDS_MAX) throw invalid('batch has more than 1000 records');
    if (cursor.meteredBytes > RECORD_METERED_BYTES_MAX) throw invalid('record is larger than 1 MiB metered');
    meteredBytes += cursor.meteredBytes;
    if (meteredBytes > BATCH_METERED_BYTES_MAX) throw invalid('batch is larger than 1 MiB metered');
    if (cursor.hasTimestamp) timestamped++;
    if (cursor.headerCount === 0) continue;
    const command = checkHeaders(cursor);
    if (command === COMMAND_FENCE) hasFence = true;
    else if (command === COMMAND_TRIM) hasTrim = true;
  }
  if (count === 0) throw invalid('batch has no records');
  return {
    count,
    meteredBytes,
    hasFence,
    hasTrim,
    allTimestamped: timestamped === count,
    anyTimestamped: timestamped > 0,
  };
}

function checkHeaders(cursor: RecordCursor): CommandKind {
  const headers = cursor.headers;
  const end = cursor.headerCount * 4;
  for (let at = 0; at < end; at += 4) {
    if (headers[at] !== headers[at + 1]) continue;
    if (cursor.headerCount !== 1) throw invalid('a header name must not be empty');
    const size = cursor.bodyEnd - cursor.bodyStart;
    switch (commandOf(cursor)) {
      case COMMAND_FENCE:
        if (size > FENCING_TOKEN_BYTES_MAX) throw invalid('fencing token is longer than 36 bytes');
        if (!isUtf8(cursor.bytes.subarray(cursor.bodyStart, cursor.bodyEnd))) {
          throw invalid('fencing token is not UTF-8');
        }
        return COMMAND_FENCE;
      case COMMAND_TRIM:
        if (size !== 8) throw invalid('trim point is not 8 bytes');
        return COMMAND_TRIM;
      default:
        throw invalid('unknown command');
    }
  }
  return COMMAND_NONE;
}

function invalid(reason: string): S2Error {
  return new S2Error('invalid', reason);
}
