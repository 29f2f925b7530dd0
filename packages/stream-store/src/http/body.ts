import type { Readable } from 'node:stream';
import { S2Error } from '../s2-error.ts';

/** Reads a whole request body of at most `bytesMax`. */
export function readBody(body: Readable, bytesMax: number, timeoutMs: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    const timer = setTimeout(
      () => fail(new S2Error('request_timeout', 'The request body did not arrive in time.')),
      timeoutMs,
    );
    const fail = (error: S2Error) => {
      clearTimeout(timer);
      body.off('data', onData);
      body.off('end', onEnd);
      reject(error);
    };
    const onData = (chunk: Buffer) => {
      size += chunk.length;
      if (size > bytesMax) return fail(new S2Error('invalid', `The body is larger than ${bytesMax} bytes.`));
      chunks.push(chunk);
    };
    const onEnd = () => {
      clearTimeout(timer);
      resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, size));
    };
    body.on('data', onData);
    body.on('end', onEnd);
    body.once('close', () => {
      if (!body.readableEnded) fail(new S2Error('client_hangup', 'The client closed the connection.'));
    });
  });
}
