/** One invocation: what it was asked, and everything it has to take away again, however it ends. */
import { rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { testDirectory } from '@millrace/testkit/postgres';
import { BenchPostgres } from './backlog.ts';
import { type Client, startClient } from './client-process.ts';

export interface Settings {
  readonly runs: number;
  /** Of the numbers of rows. */
  readonly scale: number;
}

export class Session {
  readonly settings: Settings;
  readonly signal: AbortSignal;
  readonly #root = testDirectory('bench');
  readonly #clients = new Set<Client<unknown>>();
  #postgres: Promise<BenchPostgres> | null = null;

  constructor(settings: Settings, signal: AbortSignal) {
    this.settings = settings;
    this.signal = signal;
  }

  /** Started for the first that asks. */
  get postgres(): Promise<BenchPostgres> {
    this.#postgres ??= BenchPostgres.start();
    return this.#postgres;
  }

  progress(text: string): void {
    process.stderr.write(`bench: ${text}\n`);
  }

  rows(full: number, multipleOf = 1): number {
    return Math.max(1, Math.round((full * this.settings.scale) / multipleOf)) * multipleOf;
  }

  client<Result>(name: string, input: unknown, env: Readonly<Record<string, string>> = {}): Client<Result> {
    const client = startClient<Result>(name, input, { signal: this.signal, env });
    this.#clients.add(client);
    const gone = () => void this.#clients.delete(client);
    client.result.then(gone, gone);
    return client;
  }

  /** A directory that is empty, and gone afterwards. */
  async withDirectory<T>(work: (dir: string) => Promise<T>): Promise<T> {
    const dir = await mkdtemp(join(this.#root, 'run-'));
    try {
      return await work(dir);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  }

  async end(): Promise<void> {
    await Promise.all([...this.#clients].map((client) => client.end()));
    await (await this.#postgres?.catch(() => null))?.remove();
    rmSync(this.#root, { recursive: true, force: true });
  }
}
