/** Opens the sink of the argument, delivers its message, closes, and has nothing left to do. */
import type { HttpEndpoint, SinkKind } from '@millrace/sinks/sink-kind';

const { module, exportName, destination, httpEndpoints, message } = JSON.parse(process.argv[2] ?? '');
// biome-ignore lint/suspicious/noExplicitAny: whichever kind it is.
const kind = ((await import(module)) as Record<string, SinkKind<any, any>>)[exportName];
if (kind === undefined) throw new Error(`${module} exports no ${exportName}`);
const sink = await kind.open(kind.schema.parse(destination), {
  name: 'contract',
  httpEndpoint: (name) => (httpEndpoints as HttpEndpoint[]).find((endpoint) => endpoint.name === name),
  network: { allowPrivate: true, allow: [] },
  timeoutMs: 20_000,
  log: () => {},
});
const lost = await sink.deliver(
  [{ ...message, lsn: BigInt(message.lsn), body: Buffer.from(message.body, 'utf8') }],
  new AbortController().signal,
);
if (lost?.some((outcome) => outcome !== null)) throw new Error('the message did not arrive');
await sink.close();
console.log('closed');
