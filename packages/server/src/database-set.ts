/** The databases that run, in the order of the configuration; added and removed while the others go on. */
import type { DatabaseConfig, SinkConfig } from '@millrace/api/config';
import type { DatabaseSupervisor } from './database-supervisor.ts';

export interface DatabaseSetOptions {
  readonly supervise: (database: DatabaseConfig, sinks: readonly SinkConfig[]) => DatabaseSupervisor;
}

export class DatabaseSet {
  readonly #supervise: DatabaseSetOptions['supervise'];
  #all: DatabaseSupervisor[] = [];
  readonly #fatal = Promise.withResolvers<never>();
  #stopped = false;

  constructor({ supervise }: DatabaseSetOptions) {
    this.#supervise = supervise;
    this.#fatal.promise.catch(() => {});
  }

  get all(): readonly DatabaseSupervisor[] {
    return this.#all;
  }

  /** Rejects with what the process has to end for. */
  get fatal(): Promise<never> {
    return this.#fatal.promise;
  }

  find(name: string): DatabaseSupervisor | undefined {
    return this.#all.find((one) => one.name === name);
  }

  add(database: DatabaseConfig, sinks: readonly SinkConfig[]): DatabaseSupervisor {
    const supervisor = this.#supervise(database, sinks);
    this.#all = [...this.#all, supervisor];
    supervisor.fatal.catch((error: unknown) => this.#fatal.reject(error));
    // Added while everything ends.
    if (this.#stopped) void supervisor.stop();
    return supervisor;
  }

  /** Resolves when it has stopped: only then may another read its slot. */
  async remove(name: string): Promise<void> {
    const supervisor = this.find(name);
    await supervisor?.stop();
    this.#all = this.#all.filter((one) => one !== supervisor);
  }

  /** In its place, with another configuration. */
  async replace(database: DatabaseConfig, sinks: readonly SinkConfig[]): Promise<void> {
    const before = this.find(database.name);
    await before?.stop();
    if (this.#stopped) return;
    const supervisor = this.#supervise(database, sinks);
    supervisor.fatal.catch((error: unknown) => this.#fatal.reject(error));
    this.#all = this.#all.map((one) => (one === before ? supervisor : one));
  }

  order(names: readonly string[]): void {
    this.#all = [...this.#all].sort((a, b) => names.indexOf(a.name) - names.indexOf(b.name));
  }

  /** All at once: one that hangs must not hold up the end of the others. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#all.map((one) => one.stop()));
  }
}
