import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ResourceSpec } from '@millrace/api/resource-spec';
import type { HttpServer, HttpServerOptions } from '@millrace/stream-store/http/server';
import type { TlsSource } from '@millrace/stream-store/http/tls-identity';
import type { LocalStoreOptions } from '@millrace/stream-store/local-store';
import type { LimitsConfig } from '@millrace/stream-store/throttle/limits-config';
import { type Command, Option } from 'commander';
import { CommandFailure } from './failure.ts';
import { objectStorageFlags, objectStorageOf, type StorageFlags } from './object-storage-options.ts';
import { byteSize, portNumber } from './option-value.ts';
import type { Life } from './process-life.ts';
import { notice } from './terminal.ts';

/**
 * The flags of the commands that serve the S2 API (start, store), and what the store and its HTTP surface are told with
 * them. Each flag has an environment variable that does the same: MILLRACE_ and the flag's name in capitals.
 */
export interface ServeOptions extends StorageFlags {
  readonly data: string;
  readonly host: string;
  readonly port: number;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly tlsSelf?: boolean;
  readonly initFile?: string;
  readonly rootTokenFile?: string;
  readonly limits?: string;
  readonly location?: string;
  readonly appendInflightMax?: number;
}

export interface Serving {
  readonly storage: Omit<LocalStoreOptions, 'dir' | 'log'>;
  readonly http: Pick<HttpServerOptions, 'tls' | 'limits'>;
  /** Basins and streams to ensure at the start. */
  readonly resources: ResourceSpec | undefined;
}

/** Shorter ones can be guessed by trying. */
const ROOT_TOKEN_LENGTH_MIN = 16;
/** S2's own server takes no less either: a batch has to fit. */
const APPEND_INFLIGHT_BYTES_MIN = 1_048_576;

export function addServeOptions(command: Command): Command {
  const options = [
    new Option('-d, --data <dir>', 'directory of the store, made if missing')
      .env('MILLRACE_DATA')
      .makeOptionMandatory(),
    new Option('-p, --port <port>', 'port of the S2 API; 0 for a free one')
      .env('MILLRACE_PORT')
      .argParser(portNumber)
      .default(8080),
    new Option('--host <host>', 'address to listen on').env('MILLRACE_HOST').default('127.0.0.1'),
    new Option('--tls-cert <file>', 'serve https with this certificate (PEM)').env('MILLRACE_TLS_CERT'),
    new Option('--tls-key <file>', 'the key of --tls-cert (PEM)').env('MILLRACE_TLS_KEY'),
    new Option('--tls-self', 'serve https with a self-signed certificate, made once and kept in the data directory')
      .env('MILLRACE_TLS_SELF')
      .conflicts(['tlsCert', 'tlsKey']),
    new Option('--init-file <file>', 'basins and streams to make or change at the start (see: millrace apply)').env(
      'MILLRACE_INIT_FILE',
    ),
    new Option(
      '--root-token-file <file>',
      'take the root token from this file, in place of the one of before (default: made at the first start and shown)',
    ).env('MILLRACE_ROOT_TOKEN_FILE'),
    new Option('--limits <limits>', 'rates and quotas: append-bytes-per-sec=100MiB,basins-max=100, or @FILE').env(
      'MILLRACE_LIMITS',
    ),
    new Option('--location <name>', 'what the place of this store is called (default: local)').env('MILLRACE_LOCATION'),
    new Option(
      '--append-inflight-max <size>',
      'appends taken and not yet durable; beyond it they wait (default: 128MiB)',
    )
      .env('MILLRACE_APPEND_INFLIGHT_MAX')
      .argParser(byteSize),
    ...objectStorageFlags(),
  ];
  for (const option of options) command.addOption(option);
  return command;
}

/** Reads what the flags name. Refuses what cannot be, before anything is opened or made. */
export async function servingOf(options: ServeOptions): Promise<Serving> {
  const tls = tlsSourceOf(options);
  const limits = await limitsOf(options);
  return {
    storage: {
      rootToken: await rootTokenOf(options),
      limits,
      location: options.location,
      appendInflightBytes: appendInflightOf(options),
      objectStorage: objectStorageOf(options),
    },
    http: { tls, limits },
    resources: await resourcesOf(options),
  };
}

function tlsSourceOf({ data, host, tlsCert, tlsKey, tlsSelf }: ServeOptions): TlsSource | undefined {
  if (tlsSelf === true) return { kind: 'self-signed', dir: join(data, 'tls'), host };
  if (tlsCert === undefined && tlsKey === undefined) return undefined;
  if (tlsCert === undefined || tlsKey === undefined) {
    throw new CommandFailure('usage', '--tls-cert and --tls-key are given together.');
  }
  return { kind: 'files', certFile: tlsCert, keyFile: tlsKey };
}

async function rootTokenOf({ rootTokenFile }: ServeOptions): Promise<string | undefined> {
  if (rootTokenFile === undefined) return undefined;
  const token = (await readFile(rootTokenFile, 'utf8')).trim();
  if (token.length < ROOT_TOKEN_LENGTH_MIN || !/^[\x21-\x7e]+$/.test(token)) {
    const rule = `at least ${ROOT_TOKEN_LENGTH_MIN} printable characters without spaces`;
    const hint = `Make one: echo "mr_$(openssl rand -hex 32)" > ${rootTokenFile}`;
    throw new CommandFailure('usage', `${rootTokenFile} does not hold a token: ${rule}.`, hint);
  }
  return token;
}

async function limitsOf({ limits }: ServeOptions): Promise<LimitsConfig | undefined> {
  if (limits === undefined) return undefined;
  const { parseLimits } = await import('@millrace/stream-store/throttle/limits-config');
  return parseLimits(limits.startsWith('@') ? await readFile(limits.slice(1), 'utf8') : limits);
}

function appendInflightOf({ appendInflightMax }: ServeOptions): number | undefined {
  if (appendInflightMax !== undefined && appendInflightMax < APPEND_INFLIGHT_BYTES_MIN) {
    throw new CommandFailure('usage', '--append-inflight-max is 1MiB at least.');
  }
  return appendInflightMax;
}

async function resourcesOf({ initFile }: ServeOptions): Promise<ResourceSpec | undefined> {
  if (initFile === undefined) return undefined;
  const { readResourceSpec } = await import('@millrace/api/resource-spec');
  return await readResourceSpec(initFile);
}

/** What a client has to know about the certificate, and SIGHUP for a new one. */
export function serveTls(http: HttpServer, options: ServeOptions, life: Life): void {
  if (http.tlsFingerprint === null) return;
  notice('note', `TLS certificate, SHA-256 ${http.tlsFingerprint}`);
  if (options.tlsSelf === true) {
    const file = join(options.data, 'tls', 'cert.pem');
    notice('note', `Clients have to trust it: export NODE_EXTRA_CA_CERTS=${file}`);
  }
  life.onHangup(() => void http.reloadTls());
}
