/**
 * The configuration that is applied, and the only way to another one: a plan, which changes nothing, and apply, which
 * makes the same plan again, puts it on record as a whole, and then in effect. One at a time.
 */
import { randomBytes } from 'node:crypto';
import type { ConfigSource, RawBlock, Section } from '@millrace/api/applied/config-source';
import { documentOf } from '@millrace/api/applied/config-source';
import { type Applied, type Draft, draftOfDocument, draftOfText, NOTHING_APPLIED } from '@millrace/api/applied/draft';
import { exportYaml } from '@millrace/api/applied/export';
import { type Change, canonical, changesOf, nameOf, type Plan, planOf } from '@millrace/api/applied/plan';
import { withSecretsOf } from '@millrace/api/applied/secrets';
import type { Config, SinkConfig } from '@millrace/api/config';
import type { Problem } from '@millrace/api/config-document';
import { MillraceError } from '@millrace/core/error';
import type { AppliedStore } from './applied-store.ts';
import { functionProblems } from './function-problems.ts';

/** What somebody wants applied: a file, or an edit of one resource. */
export type Wanted =
  | {
      readonly kind: 'file';
      readonly yaml: string;
      /** What it refers to, from where it was written. */
      readonly variables: Readonly<Record<string, string>>;
      readonly files: Readonly<Record<string, string>>;
      /** What it does not have goes. */
      readonly prune: boolean;
    }
  | {
      readonly kind: 'edit';
      readonly section: Section;
      /** null: a new one. */
      readonly name: string | null;
      /** null: it is deleted. */
      readonly change: (block: RawBlock | null) => RawBlock | null;
    };

/** The input is wrong; each problem has its line, or the resource that it is about. */
export class ConfigProblems extends Error {
  override readonly name = 'ConfigProblems';
  readonly problems: readonly Problem[];

  constructor(problems: readonly Problem[]) {
    super('The configuration is not valid.');
    this.problems = problems;
  }
}

export interface ConfigControlOptions {
  readonly store: AppliedStore;
  /** Before it is on record. Rejects when it cannot be, for a reason that the sources know. */
  readonly check: (now: Config, next: Config) => Promise<void>;
  /** After it is on record. */
  readonly putInEffect: (now: Config, next: Config) => Promise<void>;
  readonly log: (line: string) => void;
}

export class ConfigControl {
  readonly #options: ConfigControlOptions;
  readonly #key = randomBytes(32);
  #applied: Applied = NOTHING_APPLIED;
  /** Set when the program that started the server gave a configuration that is in no file. */
  #fixed = false;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: ConfigControlOptions) {
    this.#options = options;
  }

  get applied(): Applied {
    return this.#applied;
  }

  get isFixed(): boolean {
    return this.#fixed;
  }

  /**
   * At the start: what runs from now on. It is on record then, unless it is in no file. Resolves to the sinks that read
   * another database than before: what is known of them is of no use.
   */
  async begin(applied: Applied | Config): Promise<readonly string[]> {
    const { store, log } = this.#options;
    for (const warning of ('source' in applied ? applied.config : applied).warnings) log(`configuration: ${warning}`);
    if (!('source' in applied)) {
      this.#fixed = true;
      this.#applied = { ...NOTHING_APPLIED, config: applied };
      return [];
    }
    const changes = changesSince(store, applied.source);
    for (const { action, kind, name } of changes) {
      if (action !== 'delete') continue;
      log(`configuration: ${kind} "${name}" was applied before and is not in the file: it does not run`);
    }
    const moved = changes.filter(
      ({ action, kind, keys }) => action === 'update' && kind === 'sink' && keys.some(({ key }) => key === 'database'),
    );
    for (const { name } of moved) log(`configuration: sink "${name}" reads another database now: it starts anew`);
    this.#applied = applied;
    await store.save(applied.source);
    return moved.map(({ name }) => name);
  }

  /** Throws ConfigProblems. */
  plan(wanted: Wanted): Plan {
    return this.#draft(wanted).plan;
  }

  /**
   * `fingerprint`: of the plan that somebody saw; another one now is refused with config_stale. Resolves once it is on
   * record and on its way into effect. Rejects, with nothing changed, with ConfigProblems or what a source refuses.
   */
  apply(wanted: Wanted, fingerprint?: string): Promise<Plan> {
    const turn = this.#turn.then(() => this.#apply(wanted, fingerprint));
    this.#turn = turn.catch(() => {});
    return turn;
  }

  /** As a file. */
  export(sensitive: boolean): string {
    this.#requireSource();
    return exportYaml(this.#applied.source, sensitive);
  }

  /** The block of a resource as it was given; null: there is none of this name. */
  block(section: Section, name: string): RawBlock | null {
    const { source } = this.#applied;
    return source.blocks[section].find((block) => nameOf(source, block) === name) ?? null;
  }

  /** A sink that is not applied, resolved: to try its destination. Throws ConfigProblems. */
  draftSink(block: RawBlock): SinkConfig {
    const name = typeof block.name === 'string' ? block.name : 'test';
    const before = this.block('sinks', name);
    const database = this.#applied.config.databases[0]?.name ?? 'none';
    const whole = { ...(before ?? { database }), ...block, name };
    const change = () => (before === null ? whole : withSecretsOf('sinks', whole, before));
    const { next } = this.#draft({ kind: 'edit', section: 'sinks', name, change });
    return next.config.sinks.find((sink) => sink.name === name)!;
  }

  /** Resolves when an apply that is under way has ended. */
  async settled(): Promise<void> {
    await this.#turn;
  }

  async #apply(wanted: Wanted, fingerprint: string | undefined): Promise<Plan> {
    const { next, plan } = this.#draft(wanted);
    if (fingerprint !== undefined && fingerprint !== plan.fingerprint) {
      throw new MillraceError('config_stale', {
        detail: 'Somebody else applied something, or the file or what it refers to was changed.',
        hint: 'Look at the plan again: millrace config plan',
      });
    }
    const { store, check, putInEffect, log } = this.#options;
    const now = this.#applied;
    if (canonical(now.source) === canonical(next.source)) return plan;
    await check(now.config, next.config);
    await store.save(next.source);
    this.#applied = next;
    for (const { action, kind, name } of plan.changes) log(`configuration: ${action} ${kind} "${name}"`);
    await putInEffect(now.config, next.config);
    return plan;
  }

  #draft(wanted: Wanted): { readonly next: Applied; readonly plan: Plan } {
    this.#requireSource();
    const draft = draftOf(wanted, this.#applied);
    const problems = draft.ok ? functionProblems(draft.config, draft.codeFiles) : draft.problems;
    if (!draft.ok || problems.length > 0) throw new ConfigProblems(problems);
    return { next: { source: draft.source, config: draft.config }, plan: planOf(this.#applied, draft, this.#key) };
  }

  #requireSource(): void {
    if (!this.#fixed) return;
    throw new MillraceError('config_invalid', {
      detail: 'This server was started by a program with a configuration of its own, which is in no file.',
      hint: 'Start it with: millrace start --config FILE --data DIR',
    });
  }
}

/** From what is on record. A record that cannot be read is about to be replaced. */
function changesSince(store: AppliedStore, source: ConfigSource): readonly Change[] {
  try {
    const before = store.load();
    return before === null ? [] : changesOf(before, source);
  } catch (error) {
    if (error instanceof MillraceError) return [];
    throw error;
  }
}

function draftOf(wanted: Wanted, applied: Applied): Draft {
  if (wanted.kind === 'file') {
    const { yaml, variables, files, prune } = wanted;
    const outside = { variable: (name: string) => own(variables, name), file: (path: string) => sent(files, path) };
    return draftOfText(yaml, { applied, outside, prune });
  }
  const { section, name, change } = wanted;
  const { source } = applied;
  const at = source.blocks[section].findIndex((block) => nameOf(source, block) === name);
  const before = source.blocks[section][at] ?? null;
  const after = change(before);
  const blocks = [...source.blocks[section]];
  if (after === null) blocks.splice(at, 1);
  else if (at === -1) blocks.push(after);
  else blocks[at] = after;
  const document = documentOf({ ...source.blocks, [section]: blocks } as ConfigSource['blocks']);
  const outside = { variable: () => undefined, file: (path: string) => sent({}, path) };
  return draftOfDocument(document, () => 0, { applied, outside, prune: true });
}

function own(record: Readonly<Record<string, string>>, key: string): string | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}

function sent(files: Readonly<Record<string, string>>, path: string): string {
  const text = own(files, path);
  if (text === undefined) throw Object.assign(new Error('not sent'), { code: 'NOT_SENT' });
  return text;
}
