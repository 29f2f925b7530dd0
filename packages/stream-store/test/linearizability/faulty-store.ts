import type { Stream, StreamStore } from '../../src/store.ts';

/*
 * Stores with one thing wrong, for the question whether the checker notices. They wrap a real one from outside: the
 * product knows nothing of them.
 */

export const MUTANTS = ['acks-before-sync', 'ignores-fences', 'shows-undurable-tail'] as const;
export type Mutant = (typeof MUTANTS)[number];

/** Its streams take any append, whatever token it brings. */
export function ignoringFences<S extends StreamStore>(store: S): S {
  return withStreams(store, (stream) => ({
    append: (input) => stream.append({ ...input, fencingToken: undefined }),
  }));
}

/** Its streams show as their tail what is assigned, durable or not. */
export function showingUndurableTails<S extends StreamStore>(store: S): S {
  return withStreams(store, (stream) => ({
    get tail() {
      return { seqNum: stream.assignedSeqNum, timestamp: stream.tail.timestamp };
    },
  }));
}

function withStreams<S extends StreamStore>(store: S, change: (stream: Stream) => Partial<Stream>): S {
  return overridden(store, {
    openStream: async (...args: Parameters<StreamStore['openStream']>) => {
      const stream = await store.openStream(...args);
      return overridden(stream, change(stream));
    },
  } as Partial<S>);
}

/** Everything of `target` but `changes`. A proxy, because the methods of the real ones reach private fields. */
function overridden<T extends object>(target: T, changes: Partial<T>): T {
  return new Proxy(target, {
    get(_target, key) {
      if (Reflect.has(changes, key)) return Reflect.get(changes, key);
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
