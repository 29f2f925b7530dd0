/**
 * The sinks into S2 streams as they are configured: into one stream, or wherever a routing function says; in this
 * process's store, or at another endpoint.
 */
import type { StateTable, StreamStore } from '@millrace/stream-store/store';
import { routableSink } from './routable-sink.ts';
import { routeLog } from './route-log.ts';
import { localS2Sink } from './s2-local.ts';
import { localRoutedStreams } from './s2-local-streams.ts';
import { placeName } from './s2-place.ts';
import { type Intent, remoteS2Sink } from './s2-remote.ts';
import { remoteRoutedStreams } from './s2-remote-streams.ts';
import type { Sink } from './sink.ts';

interface S2SinkOptions {
  /** The sink's own name, which its records carry. */
  readonly name: string;
  readonly basin: string;
  /** null: the routing function says. */
  readonly stream: string | null;
  /** The sink has functions. */
  readonly routed: boolean;
  /** Where it keeps what it has under way. */
  readonly state: StateTable;
}

export function localSink(options: S2SinkOptions & { readonly store: StreamStore }): Sink {
  const { store, name, basin, stream, routed, state } = options;
  const streams = localRoutedStreams({ store, name });
  const place = stream === null ? null : placeName(basin, stream);
  return routableSink({
    single: stream === null ? null : localS2Sink({ store, name, basin, stream }),
    streams,
    log: routeLog(state, name),
    place,
    routed,
    async placeNow(signal) {
      const { id, nextSeqNum } = await streams.open(place!, signal);
      return { id, seqNum: nextSeqNum };
    },
  });
}

export interface RemoteSinkOptions extends S2SinkOptions {
  readonly accessToken: string;
  readonly endpoint?: string | undefined;
  /** Of the sink into one stream; durable before `save` resolves. */
  readonly intents: { load(): readonly Intent[]; save(intents: readonly Intent[]): Promise<void> };
}

export function remoteSink(options: RemoteSinkOptions): Sink {
  const { name, basin, stream, routed, state, accessToken, endpoint, intents } = options;
  const streams = remoteRoutedStreams({ name, accessToken, endpoint });
  const place = stream === null ? null : placeName(basin, stream);
  const connection = { name, accessToken, endpoint };
  return routableSink({
    single: stream === null ? null : remoteS2Sink({ ...connection, basin, stream, intents }),
    streams,
    log: routeLog(state, name),
    place,
    routed,
    async placeNow(signal) {
      const { nextSeqNum } = await streams.open(place!, signal);
      // What was under way into the one stream is long settled.
      await intents.save([]);
      return { seqNum: nextSeqNum };
    },
  });
}
