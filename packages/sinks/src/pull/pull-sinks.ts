/** The pull sinks that run now, by name: how workers' requests find them. */
import type { PullSink } from './pull-sink.ts';

export class PullSinks {
  readonly #byName = new Map<string, PullSink>();

  get(name: string): PullSink | undefined {
    return this.#byName.get(name);
  }

  /** One that takes the place of another of the name; the other may end after this one began. */
  add(name: string, sink: PullSink): void {
    this.#byName.set(name, sink);
  }

  remove(name: string, sink: PullSink): void {
    if (this.#byName.get(name) === sink) this.#byName.delete(name);
  }
}
