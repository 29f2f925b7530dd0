/** A peer that is a program of its own: started on a free port, its CPU time and memory read from /proc (Linux). */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { Usage } from './clients/client.ts';

const CLOCK_TICKS_PER_SECOND = 100;
const READY_MS = 20_000;
const POLL_MS = 50;

/** S2's own command line, whose `lite` is S2's self-hosted server: what S2_CLI names, or `s2` on the PATH. */
export function findS2Cli(): { readonly command: string; readonly version: string } | null {
  const command = process.env.S2_CLI ?? 's2';
  const { status, stdout } = spawnSync(command, ['--version'], { encoding: 'utf8' });
  return status === 0 ? { command, version: stdout.split(' (', 1)[0]!.trim() } : null;
}

export class ExternalServer {
  readonly port: number;
  readonly #child: ChildProcess;
  #cpuBefore = { user: 0, system: 0 };

  private constructor(port: number, child: ChildProcess) {
    this.port = port;
    this.#child = child;
  }

  /** Resolves once it accepts connections. */
  static async start(
    command: string,
    args: (port: number) => readonly string[],
    env: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<ExternalServer> {
    const port = await freePort();
    const child = spawn(command, args(port), { env: { ...process.env, ...env }, stdio: 'ignore' });
    const server = new ExternalServer(port, child);
    const until = performance.now() + READY_MS;
    while (!(await accepts(port))) {
      if (child.exitCode !== null || performance.now() > until || signal.aborted) {
        await server.end();
        throw new Error(`${command} did not start`);
      }
      await delay(POLL_MS);
    }
    return server;
  }

  startMeter(): void {
    this.#cpuBefore = cpuOf(this.#child.pid!);
  }

  /** Since startMeter; memory since its start. */
  used(): Usage {
    const pid = this.#child.pid!;
    const now = cpuOf(pid);
    const system = now.system - this.#cpuBefore.system;
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return {
      cpuSeconds: now.user - this.#cpuBefore.user + system,
      systemSeconds: system,
      rssBytesMax: Number(/^VmHWM:\s+(\d+) kB/m.exec(status)![1]) * 1024,
    };
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const closed = once(this.#child, 'close');
    this.#child.kill('SIGKILL');
    await closed;
  }
}

function cpuOf(pid: number): { user: number; system: number } {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  // Behind the name, which is in parentheses and may contain anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return { user: Number(fields[11]) / CLOCK_TICKS_PER_SECOND, system: Number(fields[12]) / CLOCK_TICKS_PER_SECOND };
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
