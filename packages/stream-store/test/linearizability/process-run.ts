import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type ProcessHarness, processHarness } from '@millrace/testkit/process-harness';
import { type Random, seededRandom } from '@millrace/testkit/random';
import type { Mutant } from './faulty-store.ts';
import { HistoryRecorder } from './history.ts';
import { httpStreamClient } from './http-stream-client.ts';
import { judge, type RunResult } from './run-result.ts';
import { readRecorded, runClient } from './workload.ts';

/*
 * Clients over HTTP against a server process that is killed with SIGKILL and started again on the same directory. The
 * seed fixes what each client tries and when the kills come; who wins a race is up to the machine.
 */

export interface ProcessRunOptions {
  readonly seed: number;
  /** `kernel`: SIGKILL, the kernel keeps what was written. `power`: what was not synced is gone. */
  readonly variant: 'kernel' | 'power' | Mutant;
  readonly kills?: number;
}

const SERVER = fileURLToPath(new URL('./server-process.ts', import.meta.url));
const BASIN = 'linear-basin';
const STREAMS = ['one', 'two', 'three'];
const CLIENTS_PER_STREAM = 4;
/** A run ends with its last kill; a client that is quick does this much at most. */
const OPERATIONS_PER_CLIENT = 120;
/** A kill comes this long after the server is up, at most. */
const LIFE_MS_MAX = 250;

export async function runAgainstProcess(options: ProcessRunOptions): Promise<RunResult> {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-linear-'));
  const server = processHarness({ args: [SERVER, dir, options.variant] });
  try {
    return await new ProcessRun(server, options).run();
  } finally {
    await server.kill();
    rmSync(dir, { recursive: true, force: true });
  }
}

class ProcessRun {
  readonly #server: ProcessHarness;
  readonly #random: Random;
  readonly #kills: number;
  readonly #histories = new Map(STREAMS.map((name) => [name, new HistoryRecorder()]));
  #port = 0;
  #up: Promise<void> = Promise.resolve();
  #ended = false;
  #notBack: string | null = null;

  constructor(server: ProcessHarness, { seed, kills = 3 }: ProcessRunOptions) {
    this.#server = server;
    this.#random = seededRandom(seed);
    this.#kills = kills;
  }

  async run(): Promise<RunResult> {
    this.#server.start();
    await this.#listening();
    await this.#createBasin();
    const clients = [...this.#histories].flatMap(([stream, recorder]) =>
      Array.from({ length: CLIENTS_PER_STREAM }, (_, i) => this.#runClient(stream, `${stream} ${i}`, recorder)),
    );
    const allDone = Promise.all(clients);
    const killing = this.#killAndRestart();
    try {
      // A client that finds what cannot be ends the run at once.
      await Promise.race([allDone, killing]);
    } finally {
      this.#ended = true;
      await killing;
    }
    await allDone;
    if (this.#notBack !== null) return { problems: [this.#notBack], calls: 0, unknown: 0, crashes: this.#kills };
    for (const [stream, recorder] of this.#histories) await this.#readAtEnd(stream, recorder);
    return judge(this.#histories, this.#kills);
  }

  async #killAndRestart(): Promise<void> {
    for (let kill = 0; kill < this.#kills; kill++) {
      await new Promise((resolve) => setTimeout(resolve, this.#random.next() * LIFE_MS_MAX));
      if (this.#ended) return;
      const back = Promise.withResolvers<void>();
      this.#up = back.promise;
      try {
        await this.#server.kill('SIGKILL');
        this.#server.start();
        await this.#listening();
      } catch (error) {
        // A server that does not come back, e.g. because it finds its own remains damaged.
        this.#notBack = `the server did not start again: ${(error as Error).message}`;
        this.#ended = true;
        return;
      } finally {
        back.resolve();
      }
    }
    await new Promise((resolve) => setTimeout(resolve, LIFE_MS_MAX));
  }

  async #runClient(stream: string, name: string, recorder: HistoryRecorder): Promise<void> {
    const random = seededRandom(this.#random.integer(2 ** 31));
    const client = this.#client(stream, random);
    try {
      await runClient({
        name,
        client,
        recorder,
        random,
        operations: OPERATIONS_PER_CLIENT,
        ready: async () => {
          await this.#up;
          return !this.#ended;
        },
      });
    } finally {
      client.close();
    }
  }

  async #readAtEnd(stream: string, recorder: HistoryRecorder): Promise<void> {
    const client = this.#client(stream, this.#random);
    try {
      if (!(await readRecorded(client, 'judge', recorder))) {
        throw new Error(`${stream} cannot be read at the end:\n${this.#server.transcript()}`);
      }
    } finally {
      client.close();
    }
  }

  #client(stream: string, random: Random) {
    return httpStreamClient({ port: () => this.#port, basin: BASIN, stream, random: random.next });
  }

  async #listening(): Promise<void> {
    const line = await this.#server.waitForLine(/^listening \d+$/);
    this.#port = Number(line.split(' ')[1]);
  }

  async #createBasin(): Promise<void> {
    const answer = await fetch(`http://127.0.0.1:${this.#port}/v1/basins/${BASIN}`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ config: { create_stream_on_append: true, create_stream_on_read: true } }),
    });
    if (answer.status !== 201) throw new Error(`the basin could not be made: ${answer.status}`);
  }
}
