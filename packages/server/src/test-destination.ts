/** "Test connection": opens the destination of a sink anew, looks whether it would take messages, and closes it. */
import { isS2, type S2DestinationConfig, type SinkConfig } from '@millrace/api/config';
import { MillraceError } from '@millrace/core/error';
import { unforeseen } from '@millrace/core/unforeseen';
import { classify, findTail, remoteClient, requireOpenEndpoint } from '@millrace/sinks/s2-remote-client';
import type { SinkContext } from '@millrace/sinks/sink-kind';
import { sinkKind } from '@millrace/sinks/sink-kinds';
import type { LocalStore } from '@millrace/stream-store/local-store';

export const DESTINATION_TEST_TIMEOUT_MS = 15_000;

/** Rejects with a coded error that says what to do. */
export async function testDestination(
  sink: SinkConfig,
  store: LocalStore,
  contextOf: (sink: SinkConfig) => SinkContext,
): Promise<void> {
  const { destination } = sink;
  const signal = AbortSignal.timeout(DESTINATION_TEST_TIMEOUT_MS);
  if (isS2(destination)) return await testStream(destination, store, contextOf(sink), signal);
  const kind = sinkKind(destination.type);
  if (kind === undefined) throw new MillraceError('internal');
  // One that is only pulled from has nothing to connect to; it must not take the place of the one that runs.
  const { pullSinks: _running, ...context } = contextOf(sink);
  try {
    const opened = await kind.open(destination.config, context);
    try {
      await opened.test(signal);
    } finally {
      await opened.close();
    }
  } catch (error) {
    throw unforeseen(error);
  }
}

async function testStream(
  { basin, stream, accessToken, endpoint }: S2DestinationConfig,
  store: LocalStore,
  { network }: SinkContext,
  signal: AbortSignal,
): Promise<void> {
  if (accessToken === undefined && endpoint === undefined) {
    // Basin and stream are made when they are missing.
    if (store.refusal !== null) throw store.refusal;
    return;
  }
  // Where each message goes, a function says.
  if (basin === null || stream === null) return;
  try {
    await requireOpenEndpoint({ endpoint, network }, signal);
    const client = remoteClient({ accessToken: accessToken ?? 'none', endpoint });
    await findTail(client.basin(basin).stream(stream), signal);
  } catch (error) {
    throw classify(error, `s2://${basin}/${stream}${endpoint === undefined ? '' : ` at ${endpoint}`}`);
  }
}
