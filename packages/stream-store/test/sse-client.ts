import http from 'node:http';
import { onTestFinished } from 'vitest';
import { recordsPath } from './s2s-client.ts';
import type { Served } from './serve.ts';

export interface Event {
  event?: string;
  id?: string;
  data?: string;
}

/** An SSE read with what came so far. */
export class EventReader {
  readonly events: Event[] = [];
  status = 0;
  headers: http.IncomingHttpHeaders = {};
  ended = false;

  constructor({ port }: Served, stream: string, query: string, headers: Record<string, string>) {
    const request = http.request(
      {
        host: '127.0.0.1',
        port,
        path: recordsPath(stream, query),
        headers: { accept: 'text/event-stream', ...headers },
        agent: false,
      },
      (response) => {
        this.status = response.statusCode ?? 0;
        this.headers = response.headers;
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          text += chunk;
          for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
            const fields = text
              .slice(0, end)
              .split('\n')
              .map((line) => line.split(/: (.*)/s).slice(0, 2));
            this.events.push(Object.fromEntries(fields));
            text = text.slice(end + 2);
          }
        });
        response.on('error', () => {});
        response.on('close', () => (this.ended = true));
      },
    );
    request.on('error', () => {});
    request.end();
    onTestFinished(() => {
      request.destroy();
    });
  }

  get batches(): Event[] {
    return this.events.filter(({ event }) => event === 'batch');
  }
}
