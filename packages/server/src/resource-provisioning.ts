import type { BasinSpec, ResourceSpec, StreamSpec } from '@millrace/api/resource-spec';
import { MillraceError } from '@millrace/core/error';
import { type Json, parseJsonText } from '@millrace/stream-store/http/json';
import { readBasinConfig, readStreamConfig } from '@millrace/stream-store/http/wire';
import { S2Error } from '@millrace/stream-store/s2-error';
import type { StreamStore } from '@millrace/stream-store/store';

/** Streams of a basin ensured at the same time: they share the syncs of the journal. */
const STREAMS_AT_ONCE = 256;

/**
 * Makes a store hold the basins and streams of a spec (`--init-file`), with ensure semantics: what is there gets exactly
 * the configuration of the spec, what is not is made, nothing is deleted. Logs a line for each that changed. Throws
 * spec_refused.
 */
export async function provisionResources(
  store: StreamStore,
  spec: ResourceSpec,
  log: (line: string) => void,
): Promise<void> {
  for (const basin of spec.basins) {
    await provision(`basin ${basin.name}`, () => ensureBasin(store, basin), log);
    for (let at = 0; at < basin.streams.length; at += STREAMS_AT_ONCE) {
      const streams = basin.streams.slice(at, at + STREAMS_AT_ONCE);
      await Promise.all(
        streams.map((stream) =>
          provision(`stream s2://${basin.name}/${stream.name}`, () => ensureStream(store, basin.name, stream), log),
        ),
      );
    }
  }
}

async function provision(
  what: string,
  ensure: () => Promise<{ readonly result: 'created' | 'updated' | 'noop' }>,
  log: (line: string) => void,
): Promise<void> {
  try {
    const { result } = await ensure();
    if (result !== 'noop') log(`${what} ${result}`);
  } catch (cause) {
    if (!(cause instanceof S2Error)) throw cause;
    throw new MillraceError('spec_refused', { detail: `${what}: ${cause.message} (${cause.code})`, cause });
  }
}

async function ensureBasin(store: StreamStore, { name, config }: BasinSpec) {
  return await store.ensureBasin(name, readBasinConfig(asJson(config), 'config'));
}

async function ensureStream(store: StreamStore, basin: string, { name, config }: StreamSpec) {
  return await store.ensureStream(basin, name, readStreamConfig(asJson(config), 'config'));
}

/** As the HTTP surface would have it from the wire. */
function asJson(value: object): Json {
  return parseJsonText(JSON.stringify(value));
}
