import { AppendInput, AppendRecord, type ReadSession, S2, S2Error, type S2Stream } from '@s2-dev/streamstore';
import { afterAll } from 'vitest';
import type { Served } from '../serve.ts';

/** The official SDK against a server of ours, as its users have it, but for retries: an answer is seen as it came. */
export function sdkFor(served: Pick<Served, 'url'>, accessToken = 'any', options: Partial<S2Options> = {}): S2 {
  return new S2({
    accessToken,
    endpoints: { account: served.url, basin: served.url },
    retry: { maxAttempts: 1 },
    ...options,
  });
}

type S2Options = ConstructorParameters<typeof S2>[0];

const opened: S2Stream[] = [];

/** Streams hold connections: closed at the end of the file. */
export function openStream(s2: S2, basin: string, name: string, forceTransport?: 'fetch' | 's2s'): S2Stream {
  if (opened.length === 0) afterAll(() => Promise.all(opened.map((stream) => stream.close())));
  const stream = s2.basin(basin).stream(name, forceTransport === undefined ? {} : { forceTransport });
  opened.push(stream);
  return stream;
}

export const textInput = (...bodies: string[]) =>
  AppendInput.create(bodies.map((body) => AppendRecord.string({ body })));

/** What the SDK throws. */
export async function refusal(run: Promise<unknown>): Promise<S2Error> {
  try {
    await run;
  } catch (error) {
    if (error instanceof S2Error) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

export async function take(session: ReadSession, count: number): Promise<string[]> {
  const bodies: string[] = [];
  for await (const record of session) {
    bodies.push(record.body);
    if (bodies.length === count) break;
  }
  return bodies;
}
