import type { RecordFormat } from './option-value.ts';
import { type BytesRecord, describeCommand, formatRecord, isCommand, meteredBytes } from './record-format.ts';
import { notice, type Output } from './terminal.ts';

/** `⦿ 3500 bytes (6 records in range 0..=5)` on stderr, then the records. */
export async function printBatch(records: readonly BytesRecord[], format: RecordFormat, output: Output): Promise<void> {
  const line = describeBatch(records);
  if (line === null) return;
  notice('batch', line);
  await printRecords(records, format, output);
}

/** In text, command records go to stderr and leave nothing in the data. */
export async function printRecords(
  records: readonly BytesRecord[],
  format: RecordFormat,
  output: Output,
): Promise<void> {
  let text = '';
  for (const record of records) {
    if (format === 'text' && isCommand(record)) {
      // Keep the order of the stream between the two outputs.
      await output.write(text);
      text = '';
      notice('note', describeCommand(record));
    } else {
      text += `${formatRecord(record, format)}\n`;
    }
  }
  await output.write(text);
}

export function describeBatch(records: readonly BytesRecord[]): string | null {
  const first = records[0];
  const last = records.at(-1);
  if (first === undefined || last === undefined) return null;
  const bytes = records.reduce((sum, record) => sum + meteredBytes(record), 0);
  const noun = records.length === 1 ? 'record' : 'records';
  return `⦿ ${bytes} bytes (${records.length} ${noun} in range ${first.seqNum}..=${last.seqNum})`;
}
