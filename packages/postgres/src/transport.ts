/**
 * The socket under a Postgres session: TCP, unix or TLS; one reusable receive buffer; errors classified once.
 * HOT PATH: `#onRead` runs once per read, the consumer's loop over the messages once per read too.
 */
import { createConnection, isIP, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import { MillraceError } from '@millrace/core/error';
import { type Consume, ReceiveBuffer } from './receive-buffer.ts';

export type SslMode = 'disable' | 'prefer' | 'require' | 'verify-ca' | 'verify-full';

export interface TransportOptions {
  readonly host: string;
  readonly port: number;
  readonly ssl: SslMode;
  readonly sslRootCert?: string | undefined;
  /** Size of the receive buffer; a larger message grows it until that message is through. */
  readonly receiveBytes: number;
}

/** Dead peers show after this delay and ten probes of one second (what libuv sets). */
const KEEPALIVE_DELAY_MS = 20_000;

const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]);

export class Transport {
  readonly secure: boolean;
  readonly unix: boolean;
  /** True where a password in clear cannot be overheard: TLS, a unix socket, the loopback interface. */
  readonly private: boolean;
  /** DER of the server's certificate. */
  readonly certificate: Buffer | null;
  readonly address: string;
  /** Called after each read, when its bytes were consumed. */
  afterRead: ((size: number) => void) | null = null;
  /** Called exactly once. Null: closed by us, or by the server in an orderly way. */
  onClose: (error: MillraceError | null) => void = () => {};
  reads = 0;
  bytes = 0;

  readonly #socket: Socket;
  readonly #received: ReceiveBuffer;
  #failure: MillraceError | null = null;
  #closed = false;

  static async open(options: TransportOptions, signal?: AbortSignal): Promise<Transport> {
    if (options.ssl === 'disable' || isUnix(options.host)) return Transport.#openPlain(options, signal);
    const socket = await connectSocket(options, signal);
    const answer = await negotiate(socket, options, signal);
    if (answer === 'refused') {
      socket.destroy();
      // A fresh socket, because only one that is made for it can receive into our buffer.
      if (options.ssl === 'prefer') return Transport.#openPlain(options, signal);
      throw new MillraceError('pg_tls_refused', {
        detail: `At ${addressOf(options)}, with ssl: ${options.ssl}.`,
        hint: `Turn TLS on in Postgres (ssl = on with ssl_cert_file and ssl_key_file, then SELECT pg_reload_conf();), or, on a network you trust, set ssl: disable.`,
      });
    }
    const secured = await upgrade(socket, options, signal);
    const transport = new Transport(secured, options, new ReceiveBuffer(options.receiveBytes, nothingExpected));
    secured.on('data', (chunk: Buffer) => {
      if (!secured.destroyed) transport.#onRead(chunk.length, chunk);
    });
    return transport;
  }

  static async #openPlain(options: TransportOptions, signal: AbortSignal | undefined): Promise<Transport> {
    const received = new ReceiveBuffer(options.receiveBytes, nothingExpected);
    // Nothing arrives before the first byte is sent, and that is done through the transport.
    let transport: Transport | null = null;
    const socket = await connectSocket(options, signal, {
      buffer: () => received.free(),
      callback: (size) => {
        if (transport !== null) transport.#onRead(size, null);
        return true;
      },
    });
    transport = new Transport(socket, options, received);
    return transport;
  }

  private constructor(socket: Socket, options: TransportOptions, received: ReceiveBuffer) {
    this.#socket = socket;
    this.#received = received;
    this.unix = isUnix(options.host);
    this.address = addressOf(options);
    this.secure = 'encrypted' in socket;
    this.certificate = this.secure ? ((socket as TLSSocket).getPeerCertificate(true)?.raw ?? null) : null;
    const peer = socket.remoteAddress ?? '';
    this.private =
      this.secure || this.unix || peer === '::1' || peer.startsWith('127.') || peer.startsWith('::ffff:127.');
    socket.setNoDelay(true);
    if (!this.unix) socket.setKeepAlive(true, KEEPALIVE_DELAY_MS);
    socket.on('error', (error) => {
      this.#failure ??= lostError(error, this.address);
    });
    // An orderly end by the server is for the session to judge: it knows whether it asked for it.
    socket.on('end', () => socket.destroy());
    socket.on('close', () => {
      if (this.#closed) return;
      this.#closed = true;
      this.onClose(this.#failure);
    });
  }

  set consume(consume: Consume) {
    this.#received.consume = consume;
  }

  write(bytes: Uint8Array): void {
    if (!this.#socket.destroyed && this.#socket.writable) this.#socket.write(bytes);
  }

  /** Bytes that the socket has not taken yet. */
  get unsent(): number {
    return this.#socket.writableLength;
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Sends `bytes`, then closes. */
  end(bytes: Uint8Array): void {
    this.#socket.resume();
    if (!this.#socket.destroyed) this.#socket.end(bytes);
  }

  /** Closes at once. The first failure wins. */
  destroy(failure: MillraceError | null = null): void {
    this.#failure ??= failure;
    this.#socket.destroy();
  }

  /** Offers the bytes that the consumer left once more. */
  redeliver(): void {
    try {
      this.#received.redeliver();
    } catch (error) {
      this.#consumerFailed(error);
    }
  }

  /** `chunk` is null when the bytes were read into the receive buffer itself. */
  #onRead(size: number, chunk: Buffer | null): void {
    this.reads++;
    this.bytes += size;
    try {
      if (chunk === null) this.#received.received(size);
      else this.#received.receivedCopy(chunk);
    } catch (error) {
      this.#consumerFailed(error);
      return;
    }
    this.afterRead?.(size);
  }

  /** A coded error ends the connection; anything else is a bug, which nothing may swallow. */
  #consumerFailed(error: unknown): void {
    this.destroy(error instanceof MillraceError ? error : null);
    if (!(error instanceof MillraceError)) throw error;
  }
}

function nothingExpected(): never {
  throw new MillraceError('pg_protocol', { detail: 'Bytes came before anything was asked.' });
}

interface OnRead {
  buffer: () => Buffer;
  callback: (size: number) => boolean;
}

function connectSocket(options: TransportOptions, signal: AbortSignal | undefined, onread?: OnRead): Promise<Socket> {
  const target = isUnix(options.host)
    ? { path: `${options.host}/.s.PGSQL.${options.port}` }
    : { host: options.host, port: options.port };
  const socket = createConnection({ ...target, ...(onread === undefined ? {} : { onread }) });
  return settle<Socket>(
    socket,
    (resolve) => socket.once('connect', () => resolve(socket)),
    (error) => unreachable(error, options),
    signal,
  );
}

/** Asks for TLS. The one byte of the answer must be all there is: more would be bytes injected before the encryption. */
function negotiate(
  socket: Socket,
  options: TransportOptions,
  signal: AbortSignal | undefined,
): Promise<'accepted' | 'refused'> {
  socket.write(SSL_REQUEST);
  return settle<'accepted' | 'refused'>(
    socket,
    (resolve, reject) => {
      socket.once('data', (answer: Buffer) => {
        socket.pause();
        if (answer.length === 1 && answer[0] === 0x53) resolve('accepted');
        else if (answer.length === 1 && answer[0] === 0x4e) resolve('refused');
        else {
          reject(
            new MillraceError('pg_protocol', {
              detail: `The answer of ${addressOf(options)} to SSLRequest is not one of Postgres.`,
              hint: 'Check that host and port are those of a Postgres server.',
            }),
          );
        }
      });
    },
    (error) => unreachable(error, options),
    signal,
  );
}

function upgrade(socket: Socket, options: TransportOptions, signal: AbortSignal | undefined): Promise<TLSSocket> {
  // libpq: "require" with a root certificate given behaves like "verify-ca".
  const verifyChain = options.ssl === 'verify-ca' || options.ssl === 'verify-full' || options.sslRootCert !== undefined;
  const secureOptions: ConnectionOptions = {
    socket,
    host: options.host,
    servername: isIP(options.host) === 0 ? options.host : '',
    rejectUnauthorized: verifyChain,
    ...(options.sslRootCert === undefined ? {} : { ca: options.sslRootCert }),
    ...(options.ssl === 'verify-full' ? {} : { checkServerIdentity: () => undefined }),
  };
  let secured: TLSSocket;
  try {
    secured = connectTls(secureOptions);
  } catch (error) {
    socket.destroy();
    return Promise.reject(tlsError(error as NodeJS.ErrnoException, options));
  }
  return settle<TLSSocket>(
    secured,
    (resolve) => secured.once('secureConnect', () => resolve(secured)),
    (error) => tlsError(error, options),
    signal,
  );
}

/** Waits for one outcome of a socket: success, an error, a close, an abort. Leaves no listener behind. */
function settle<T>(
  socket: Socket,
  listen: (resolve: (value: T) => void, reject: (error: unknown) => void) => void,
  classify: (error: NodeJS.ErrnoException) => MillraceError,
  signal: AbortSignal | undefined,
): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const finish = () => {
      socket.off('error', onError);
      socket.off('close', onClose);
      signal?.removeEventListener('abort', onAbort);
    };
    const fail = (error: unknown) => {
      finish();
      // A late error of a socket given up has nobody to tell.
      socket.on('error', () => {});
      socket.destroy();
      reject(error);
    };
    const onError = (error: NodeJS.ErrnoException) => fail(classify(error));
    const onClose = () => fail(classify(new Error('The server closed the connection.')));
    const onAbort = () => fail(signal?.reason);
    if (signal?.aborted) return fail(signal.reason);
    socket.on('error', onError);
    socket.on('close', onClose);
    signal?.addEventListener('abort', onAbort);
    listen((value) => {
      finish();
      resolve(value);
    }, fail);
  });
}

function isUnix(host: string): boolean {
  return host.startsWith('/');
}

export function addressOf(options: { host: string; port: number }): string {
  if (isUnix(options.host)) return `${options.host}/.s.PGSQL.${options.port}`;
  return options.host.includes(':') ? `[${options.host}]:${options.port}` : `${options.host}:${options.port}`;
}

function unreachable(error: NodeJS.ErrnoException, options: TransportOptions): MillraceError {
  const address = addressOf(options);
  const hints: Record<string, string> = {
    ECONNREFUSED: `Nothing listens there. Check host and port, that Postgres is running, and its listen_addresses.`,
    ENOTFOUND: `The host name is not known. Check its spelling and this machine's DNS.`,
    EAI_AGAIN: `The host name could not be looked up just now. Check this machine's DNS.`,
    ENOENT: `There is no such socket file. Check the directory and that Postgres is running.`,
    EACCES: `This user may not open the socket file.`,
  };
  const code = error.code ?? '';
  return new MillraceError('pg_unreachable', {
    detail: `${address}${code === '' ? '' : ` (${code})`}.`,
    hint: hints[code] ?? 'Check host, port, firewalls and routes between this machine and Postgres.',
    cause: error,
  });
}

const VERIFY_FAILURES = new Set([
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'CERT_HAS_EXPIRED',
  'CERT_NOT_YET_VALID',
  'CERT_UNTRUSTED',
  'CERT_REJECTED',
  'CERT_REVOKED',
  'CERT_SIGNATURE_FAILURE',
  'INVALID_CA',
  'INVALID_PURPOSE',
  'PATH_LENGTH_EXCEEDED',
  'HOSTNAME_MISMATCH',
  'ERR_TLS_CERT_ALTNAME_INVALID',
]);

function tlsError(error: NodeJS.ErrnoException, options: TransportOptions): MillraceError {
  const address = addressOf(options);
  if (VERIFY_FAILURES.has(error.code ?? '')) {
    return new MillraceError('pg_tls_unverified', {
      detail: `${address} (${error.code}).`,
      hint:
        error.code === 'ERR_TLS_CERT_ALTNAME_INVALID'
          ? 'The certificate is for another host name. Connect by a name that it carries, or set ssl: verify-ca to check only who signed it.'
          : "Give the certificate authority's certificate (PEM) as the root certificate of this database, or set ssl: require to encrypt without verification.",
      cause: error,
    });
  }
  return new MillraceError('pg_tls_failed', {
    detail: `${address}${error.code === undefined ? '' : ` (${error.code})`}.`,
    hint: 'Check the TLS settings of the server (ssl_min_protocol_version, ssl_cert_file) and the root certificate given here.',
    cause: error,
  });
}

function lostError(error: NodeJS.ErrnoException, address: string): MillraceError {
  return new MillraceError('pg_connection_lost', {
    detail: `${address}${error.code === undefined ? '' : ` (${error.code})`}.`,
    cause: error,
  });
}
