/** What the victim of the crash test writes, so that its judge can tell every byte. */
export const CRASH_BASIN = 'crash-basin';
export const CRASH_STREAMS = ['one', 'two', 'three'];
export const CRASH_SEGMENT_BYTES = 512 * 1024;

export function bodyAt(stream: string, seqNum: number): string {
  return `${stream}:${seqNum}:`.padEnd(20 + ((seqNum * 131) % 900), String(seqNum % 10));
}
