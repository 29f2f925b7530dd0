/** A line when a sink's state changes in a way a person cares about: not each time it catches up, or tries again. */
import type { DeliveryState } from '@millrace/engine/deliver/delivery';

/** Of one sink and one text. A sink of which single messages fail goes back and forth with each try. */
const SAME_EVERY_MS = 60_000;
/** Texts of one sink that are remembered. */
const TEXTS_MAX = 20;

export function sinkReporter(
  log: (line: string) => void,
  now: () => number = () => performance.now(),
): (sink: string, state: DeliveryState) => void {
  const last = new Map<string, string>();
  const said = new Map<string, Map<string, number>>();

  return (sink, state) => {
    const text = state.kind === 'retrying' ? `${state.error.logText} Retrying. (${state.error.code})` : state.kind;
    if (state.kind === 'starting' || last.get(sink) === text) return;
    last.set(sink, text);
    let texts = said.get(sink);
    if (texts === undefined) said.set(sink, (texts = new Map()));
    const flaps = state.kind === 'running' || state.kind === 'retrying';
    if (flaps && now() - (texts.get(text) ?? Number.NEGATIVE_INFINITY) < SAME_EVERY_MS) return;
    if (texts.size >= TEXTS_MAX) texts.clear();
    texts.set(text, now());
    log(`${sink}: ${text}`);
  };
}
