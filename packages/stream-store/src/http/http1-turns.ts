import type http from 'node:http';
import type { Duplex } from 'node:stream';
import { PIPELINED_REQUESTS_MAX } from './limits.ts';

/**
 * One HTTP/1.1 connection, one request at a time. Node hands out pipelined requests together; here the next one starts
 * when the answer before it was taken, so that effects come in the order of the requests, and a client that takes no
 * answers has one of them in memory. What cannot be parsed is answered after the request before it: an error that
 * arrived in its place would be taken for its answer, although it may have had its effect.
 */
export function answerInTurn(server: http.Server, onRequest: RequestListener): void {
  const turns = new WeakMap<Duplex, Turns>();

  function begin(turn: Turns, request: http.IncomingMessage, response: http.ServerResponse): void {
    turn.current = { request, response };
    response.once('close', () => {
      turn.current = null;
      if (turn.refusal !== null) return refuse(request.socket, turn.refusal);
      const next = turn.waiting.shift();
      if (next !== undefined && !request.socket.destroyed) begin(turn, next.request, next.response);
    });
    onRequest(request, response);
  }

  server.on('request', (request, response) => {
    const { socket } = request;
    let turn = turns.get(socket);
    if (turn === undefined) turns.set(socket, (turn = { current: null, waiting: [], refusal: null }));
    if (turn.current === null) begin(turn, request, response);
    else if (turn.waiting.length < PIPELINED_REQUESTS_MAX) turn.waiting.push({ request, response });
    else socket.destroy();
  });

  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    const turn = turns.get(socket);
    const refusal = refusalOf(error.code);
    const current = turn?.current ?? null;
    // A request that is complete gets its own answer first. One that broke off inside its body is what is refused.
    if (turn !== undefined && current?.request.complete === true) turn.refusal = refusal;
    else if (current?.response.headersSent === true) socket.destroy();
    else refuse(socket, refusal);
  });
}

type RequestListener = (request: http.IncomingMessage, response: http.ServerResponse) => void;

interface Turn {
  readonly request: http.IncomingMessage;
  readonly response: http.ServerResponse;
}

interface Turns {
  current: Turn | null;
  readonly waiting: Turn[];
  /** Set when what follows cannot be parsed: sent after the current answer, and the connection closed. */
  refusal: Refusal | null;
}

interface Refusal {
  readonly status: string;
  readonly code: string;
  readonly message: string;
}

function refusalOf(code: string | undefined): Refusal {
  switch (code) {
    case 'HPE_HEADER_OVERFLOW':
      return {
        status: '431 Request Header Fields Too Large',
        code: 'bad_header',
        message: 'The headers are too large.',
      };
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return {
        status: '408 Request Timeout',
        code: 'request_timeout',
        message: 'The headers did not arrive in time.',
      };
    default:
      return { status: '400 Bad Request', code: 'bad_header', message: 'This is not a request of HTTP/1.1.' };
  }
}

function refuse(socket: Duplex, { status, code, message }: Refusal): void {
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const body = JSON.stringify({ code, message });
  socket.end(
    `HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    () => socket.destroy(),
  );
}
