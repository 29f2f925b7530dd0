/** Lines for what a sink's messages do not show of the source: each once per sink, table and kind, not once per row. */
import type { ContentNotice } from '@millrace/engine/decode/message-contents';

/** Beyond it older ones may be said again. */
const REPORTED_MAX = 1_000;

export function contentReporter(log: (line: string) => void): (sink: string, notice: ContentNotice) => void {
  const reported = new Set<string>();
  return (sink, { kind, table, text, hint }) => {
    const key = `${sink}\0${kind}\0${table}`;
    if (reported.has(key)) return;
    if (reported.size >= REPORTED_MAX) reported.clear();
    reported.add(key);
    log(`${sink}: ${text} ${hint.replaceAll('\n', ' ')} (${kind})`);
  };
}
