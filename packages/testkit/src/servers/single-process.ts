/** A server of a test's own that is one process: started on ports that are free, killed, held still, started again. */
import { rmSync } from 'node:fs';
import { type ProcessHarness, type ProcessOptions, processHarness } from '../process-harness.ts';
import { freePorts } from './provision.ts';
import { resumeProcess, suspendProcess } from './suspend.ts';

const START_TIMEOUT_MS = 30_000;
/** Somebody else may take a port that was free. */
const START_ATTEMPTS = 5;

export interface SingleProcess {
  readonly process: ProcessHarness;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** On the same ports with the same data. Resolves when it answers. */
  restart(): Promise<void>;
  /** SIGSTOP and SIGCONT. */
  suspend(): void;
  resume(): void;
  /** Ends it and removes its data. */
  stop(): Promise<void>;
}

export interface SingleProcessOptions {
  readonly program: ProcessOptions;
  /** What it says when it answers. */
  readonly ready: RegExp;
  /** How many it needs. */
  readonly ports: number;
  /** Before each attempt to start. */
  configure(ports: readonly number[]): void;
  /** Everything that it writes; removed when it stops. */
  readonly root: string;
}

export async function startSingleProcess(options: SingleProcessOptions): Promise<[SingleProcess, readonly number[]]> {
  const child = processHarness(options.program);

  async function start(): Promise<void> {
    child.start();
    await child.waitForLine(options.ready, { timeoutMs: START_TIMEOUT_MS });
  }

  async function startOnFreePorts(): Promise<readonly number[]> {
    for (let attempt = 1; ; attempt++) {
      const ports = await freePorts(options.ports);
      options.configure(ports);
      try {
        await start();
        return ports;
      } catch (error) {
        await child.kill();
        if (attempt === START_ATTEMPTS) throw error;
      }
    }
  }

  const ports = await startOnFreePorts();
  const server: SingleProcess = {
    process: child,
    async kill() {
      await child.kill('SIGKILL');
    },
    restart: start,
    suspend: () => suspendProcess(child.pid),
    resume: () => resumeProcess(child.pid),
    async stop() {
      await child.kill('SIGKILL');
      rmSync(options.root, { recursive: true, force: true });
    },
  };
  return [server, ports];
}
