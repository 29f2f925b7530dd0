import { mkdtempSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { startHttpServer } from '../src/http/server.ts';
import { openLocalStore } from '../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';
import {
  ALL_OPERATIONS,
  isEscalation,
  judge,
  listed,
  type ModelToken,
  type NameSet,
  type Needs,
  permitted,
  type ScopeJson,
  storedName,
} from './access-model.ts';
import { HeldClock, seededRandom } from './store-rig.ts';

// Random trees of access tokens, issued by one another, revoked, run out, and random requests with any of them over
// HTTP: what is refused is exactly what the model of the reference refuses, and lists show exactly what it shows.

const SEEDS = Number(process.env.MILLRACE_ACCESS_SEEDS ?? 6);
const STEPS = 700;

const BASINS = ['basin-aa', 'basin-ab', 'basin-bb'];
const STREAMS = ['a', 'a/b', 'ab', 'b', 'ba', 'team-1/x', 'team-1/y', 'team-1/team-1/x', 'team-2/x'];
const ABSENT_BASIN = 'basin-absent';
const SETS: { [K in 'basins' | 'streams' | 'access_tokens']: NameSet[] } = {
  basins: [{ prefix: '' }, { prefix: 'basin-a' }, { prefix: 'basin-bb' }, { exact: 'basin-aa' }, { exact: '' }],
  streams: [
    { prefix: '' },
    { prefix: 'a' },
    { prefix: 'a/' },
    { prefix: 'team-1/' },
    { prefix: 'team-' },
    { exact: 'a' },
    { exact: 'team-1/x' },
    { exact: '' },
  ],
  access_tokens: [{ prefix: '' }, { prefix: 'x' }, { prefix: 'xy' }, { exact: 'xy-1' }, { exact: '' }],
};

const dir = mkdtempSync(path.join(tmpdir(), 'millrace-access-'));
const clock = new HeldClock();
const store = await openLocalStore({ dir, clock, rootToken: 'the-root-token' });
const server = await startHttpServer({ store, port: 0, auth: 'required' });
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
afterAll(async () => {
  agent.destroy();
  await server.close({ graceMs: 0 });
  await store.close();
  rmSync(dir, { recursive: true, force: true });
});
/** Streams by basin: tokens with auto-prefix make new ones when they name one that is there without the prefix. */
const made = new Map<string, Set<string>>();
for (const basin of BASINS) {
  made.set(basin, new Set(STREAMS));
  await store.createBasin(basin, DEFAULT_BASIN_CONFIG);
  for (const stream of STREAMS) await store.createStream(basin, stream, {});
}

interface Asked {
  readonly method: string;
  readonly target: string;
  readonly basin?: string;
  readonly json?: unknown;
}

function ask(secret: string, { method, target, basin, json }: Asked): Promise<{ status: number; text: string }> {
  const headers: http.OutgoingHttpHeaders = { authorization: `Bearer ${secret}` };
  if (basin !== undefined) headers['s2-basin'] = basin;
  if (json !== undefined) headers['content-type'] = 'application/json';
  return new Promise((resolve, reject) => {
    const request = http.request({ port: server.port, path: target, method, headers, agent }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => (text += chunk));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
    });
    request.on('error', reject);
    request.end(json === undefined ? undefined : JSON.stringify(json));
  });
}

interface Holder extends ModelToken {
  readonly secret: string;
}

const ROOT: Holder = {
  id: 'root',
  secret: 'the-root-token',
  autoPrefix: false,
  expiresAt: Number.POSITIVE_INFINITY,
  revoked: false,
  scope: { basins: { prefix: '' }, streams: { prefix: '' }, access_tokens: { prefix: '' }, ops: ALL_OPERATIONS },
};

const COMMANDS = {
  plain: { headers: [], body: 'x' },
  fence: { headers: [['', 'fence']], body: '' },
  trim: { headers: [['', 'trim']], body: '\0\0\0\0\0\0\0\0' },
};

/** Requests that delete nothing that is there. */
function requests(basin: string, stream: string, id: string): [string, Asked, Needs][] {
  const at = `/v1/streams/${encodeURIComponent(stream)}`;
  const gone = `${stream}-absent`;
  const records = `${at}/records`;
  const append = (...kinds: (keyof typeof COMMANDS)[]): Asked => ({
    method: 'POST',
    target: records,
    basin,
    json: { records: kinds.map((kind) => COMMANDS[kind]) },
  });
  const span = 'start=1&end=2';
  const inStream = (...operations: string[]): Needs => ({ operations, basin, stream });
  const inBasin = (...operations: string[]): Needs => ({ operations, basin });
  const config = `/v1/basins/${basin}`;
  return [
    ['create-basin', { method: 'POST', target: '/v1/basins', json: { basin } }, inBasin('create-basin')],
    ['get-basin-config', { method: 'GET', target: config }, inBasin('get-basin-config')],
    ['ensure-basin', { method: 'PUT', target: config }, inBasin('create-basin', 'reconfigure-basin')],
    ['reconfigure-basin', { method: 'PATCH', target: config, json: {} }, inBasin('reconfigure-basin')],
    [
      'delete-basin',
      { method: 'DELETE', target: `/v1/basins/${ABSENT_BASIN}` },
      { operations: ['delete-basin'], basin: ABSENT_BASIN },
    ],
    [
      'basin-metrics',
      { method: 'GET', target: `/v1/metrics/${basin}?set=append-ops&${span}` },
      inBasin('basin-metrics'),
    ],
    ['create-stream', { method: 'POST', target: '/v1/streams', basin, json: { stream } }, inStream('create-stream')],
    ['get-stream-config', { method: 'GET', target: at, basin }, inStream('get-stream-config')],
    ['ensure-stream', { method: 'PUT', target: at, basin }, inStream('create-stream', 'reconfigure-stream')],
    ['reconfigure-stream', { method: 'PATCH', target: at, basin, json: {} }, inStream('reconfigure-stream')],
    [
      'delete-stream',
      { method: 'DELETE', target: `/v1/streams/${encodeURIComponent(gone)}`, basin },
      { operations: ['delete-stream'], basin, stream: gone },
    ],
    ['check-tail', { method: 'GET', target: `${records}/tail`, basin }, inStream('check-tail')],
    ['read', { method: 'GET', target: `${records}?seq_num=0`, basin }, inStream('read')],
    ['append', append('plain'), inStream('append')],
    ['append with a fence', append('plain', 'fence'), inStream('append', 'fence')],
    ['append with a trim', append('trim'), inStream('append', 'trim')],
    ['append with both', append('fence', 'trim', 'plain'), inStream('append', 'trim', 'fence')],
    [
      'stream-metrics',
      { method: 'GET', target: `/v1/metrics/${basin}/${encodeURIComponent(stream)}?set=storage&${span}` },
      inStream('stream-metrics'),
    ],
    [
      'account-metrics',
      { method: 'GET', target: `/v1/metrics?set=active-basins&${span}` },
      { operations: ['account-metrics'] },
    ],
    ['list-locations', { method: 'GET', target: '/v1/locations' }, { operations: ['list-locations'] }],
    [
      'get-default-location',
      { method: 'GET', target: '/v1/locations/default' },
      { operations: ['get-default-location'] },
    ],
    [
      'set-default-location',
      { method: 'PUT', target: '/v1/locations/default', json: 'nowhere' },
      { operations: ['set-default-location'] },
    ],
    [
      'revoke-access-token',
      { method: 'DELETE', target: `/v1/access-tokens/${encodeURIComponent(`${id}-absent`)}` },
      { operations: ['revoke-access-token'], accessToken: `${id}-absent` },
    ],
  ];
}

class Run {
  readonly #random: () => number;
  readonly #holders: Holder[] = [ROOT];
  /** What was asked, allowed and denied, to see that the run meant something. */
  readonly seen = new Map<string, { allowed: number; denied: number; authn: number }>();
  #issued = 0;

  constructor(seed: number) {
    this.#random = seededRandom(seed);
  }

  #pick<T>(values: readonly T[]): T {
    return values[Math.floor(this.#random() * values.length)]!;
  }

  /** Most requests come with young tokens, so that the trees grow deep. */
  #anyone(): Holder {
    const holders = this.#holders;
    const back = Math.floor(this.#random() ** 2 * holders.length);
    return holders[holders.length - 1 - back]!;
  }

  async step(): Promise<void> {
    const chance = this.#random();
    if (chance < 0.22) await this.#issue();
    else if (chance < 0.25) await this.#revoke();
    else if (chance < 0.27) clock.nowMs += Math.floor(this.#random() * 50_000);
    else if (chance < 0.45) await this.#list();
    else await this.#request();
  }

  #note(what: string, verdict: 'allowed' | 'denied' | 'authn'): void {
    const counts = this.seen.get(what) ?? { allowed: 0, denied: 0, authn: 0 };
    counts[verdict]++;
    this.seen.set(what, counts);
  }

  async #request(): Promise<void> {
    const holder = this.#anyone();
    const [what, asked, needs] = this.#pick(
      requests(this.#pick(BASINS), this.#pick(STREAMS), this.#pick(this.#holders).id),
    );
    const verdict = judge(holder, clock.nowMs, needs);
    const { status, text } = await ask(holder.secret, asked);
    const got = status === 401 ? 'authn' : status === 403 ? 'denied' : 'allowed';
    expect([what, asked.target, holder.scope, got]).toEqual([what, asked.target, holder.scope, verdict]);
    expect(status).toBeLessThan(500);
    if (status === 201) made.get(needs.basin!)!.add(storedName(holder, needs.stream!));
    this.#note(what, verdict);
    this.#expectNoLeak(holder, asked, text);
  }

  /** With auto-prefix a client never sees what is put before its names. */
  #expectNoLeak(holder: Holder, asked: Asked, text: string): void {
    const hidden = storedName(holder, '');
    if (hidden.length > 1 && !JSON.stringify(asked).includes(hidden.slice(0, -1))) expect(text).not.toContain(hidden);
  }

  async #list(): Promise<void> {
    const holder = this.#anyone();
    const kind = this.#pick(['basins', 'streams', 'access-tokens'] as const);
    const basin = this.#pick(BASINS);
    const names = { basins: BASINS, streams: [...made.get(basin)!], 'access-tokens': this.#ids() }[kind];
    const words = [
      '',
      '',
      '',
      this.#pick([...names, '']).slice(0, 1 + Math.floor(this.#random() * 8)),
      'x',
      'a',
      'basin-a',
    ];
    const valid = (word: string) => kind !== 'basins' || /^[a-z0-9][a-z0-9-]*$|^$/.test(word);
    const asked = { prefix: this.#pick(words.filter(valid)), startAfter: this.#pick(words.filter(valid)) };
    const needs: Needs =
      kind === 'streams' ? { operations: ['list-streams'], basin } : { operations: [`list-${kind}`] };
    const verdict = judge(holder, clock.nowMs, needs);
    const query = new URLSearchParams({ prefix: asked.prefix, start_after: asked.startAfter });
    const target = `/v1/${kind}?${query.toString()}`;
    const { status, text } = await ask(holder.secret, { method: 'GET', target, basin });
    expect([kind, status]).toEqual([kind, verdict === 'allowed' ? 200 : verdict === 'denied' ? 403 : 401]);
    this.#note(`list-${kind}`, verdict);
    if (verdict !== 'allowed') return;
    const set = holder.scope[kind === 'access-tokens' ? 'access_tokens' : kind];
    const hidden = kind === 'streams' ? storedName(holder, '') : '';
    const json = JSON.parse(text);
    const shown = json[kind.replace('-', '_')].map((item: { id?: string; name?: string }) => item.id ?? item.name);
    expect([target, holder.scope, shown]).toEqual([target, holder.scope, listed(names, set, hidden, asked)]);
    expect(json.has_more).toBe(false);
  }

  #ids(): string[] {
    // One that ran out is listed until it is cleaned away; the root token is none of them.
    return this.#holders.filter(({ revoked, id }) => !revoked && id !== 'root').map(({ id }) => id);
  }

  async #revoke(): Promise<void> {
    const holder = this.#anyone();
    const target = this.#pick(this.#holders);
    const verdict = judge(holder, clock.nowMs, { operations: ['revoke-access-token'], accessToken: target.id });
    const { status } = await ask(holder.secret, {
      method: 'DELETE',
      target: `/v1/access-tokens/${encodeURIComponent(target.id)}`,
    });
    const isThere = target.id !== 'root' && !target.revoked;
    const expected = { authn: 401, denied: 403, allowed: isThere ? 204 : 404 }[verdict];
    expect(['revoke', status]).toEqual(['revoke', expected]);
    this.#note('revoke', verdict);
    if (status === 204) target.revoked = true;
  }

  /** The requester's scope with one part changed, or every part at random: then hardly anything is granted. */
  #scope(requester: Holder): ScopeJson {
    const scope: ScopeJson = { ...requester.scope };
    const parts = ['basins', 'streams', 'access_tokens', 'op_groups', 'ops', 'what is permitted'] as const;
    const changed = this.#random() < 0.8 ? [this.#pick(parts)] : parts;
    for (const part of changed) {
      switch (part) {
        case 'basins':
        case 'streams':
        case 'access_tokens':
          if (this.#random() < 0.15) delete scope[part];
          else scope[part] = this.#pick(SETS[part]);
          break;
        case 'op_groups':
          scope.op_groups = {};
          for (const group of ['account', 'basin', 'stream']) {
            scope.op_groups[group] = { read: this.#random() < 0.7, write: this.#random() < 0.5 };
          }
          if (this.#random() < 0.8) delete scope.ops;
          break;
        case 'ops':
          scope.ops = ALL_OPERATIONS.filter(() => this.#random() < 0.2);
          break;
        case 'what is permitted': {
          const share = this.#pick([0.5, 0.9, 0.97]);
          scope.ops = [...permitted(requester.scope)].filter(() => this.#random() < share);
          delete scope.op_groups;
        }
      }
    }
    return scope;
  }

  async #issue(): Promise<void> {
    const holder = this.#anyone();
    const scope = this.#scope(holder);
    const known = this.#random() < 0.05 ? this.#pick(this.#holders).id : null;
    const id = known ?? `${this.#pick(['x', 'xy', 'y'])}-${++this.#issued}`;
    const autoPrefix = this.#random() < 0.3;
    const chance = this.#random();
    const expiresAt = chance < 0.6 ? undefined : clock.nowMs + Math.floor(this.#random() * 1_000_000);
    const lives = expiresAt ?? holder.expiresAt;

    const verdict = judge(holder, clock.nowMs, { operations: ['issue-access-token'], accessToken: id });
    const isInvalid =
      permitted(scope).size === 0 || (autoPrefix && (scope.streams === undefined || !('prefix' in scope.streams)));
    // An id is free again once its token is revoked or ran out.
    const isTaken =
      id === 'root' ||
      this.#holders.some((other) => other.id === id && !other.revoked && other.expiresAt > clock.nowMs);
    const expected =
      verdict !== 'allowed'
        ? { authn: 401, denied: 403 }[verdict]
        : isInvalid
          ? 422
          : isEscalation(holder, scope, lives)
            ? 403
            : isTaken
              ? 409
              : 201;
    const json = {
      id,
      scope,
      auto_prefix_streams: autoPrefix,
      ...(expiresAt === undefined ? {} : { expires_at: new Date(expiresAt).toISOString() }),
    };
    const { status, text } = await ask(holder.secret, { method: 'POST', target: '/v1/access-tokens', json });
    expect([json, holder.scope, status]).toEqual([json, holder.scope, expected]);
    this.#note('issue', status === 201 ? 'allowed' : status === 401 ? 'authn' : 'denied');
    if (status !== 201) return;
    const gone = this.#holders.findIndex((other) => other.id === id);
    if (gone >= 0) this.#holders.splice(gone, 1);
    const secret = JSON.parse(text).access_token;
    this.#holders.push({ id, scope, autoPrefix, expiresAt: lives, revoked: false, secret });
  }

  /** Everything of this run goes, so that the next one begins with the root token alone. */
  async end(): Promise<void> {
    for (const holder of this.#holders) {
      if (holder.id !== 'root' && !holder.revoked) await store.revokeAccessToken(holder.id);
    }
  }
}

test('no request succeeds that the model refuses, and the other way round', { timeout: 60_000 }, async () => {
  const total = new Map<string, { allowed: number; denied: number; authn: number }>();
  for (let seed = 1; seed <= SEEDS; seed++) {
    const run = new Run(seed);
    for (let step = 1; step <= STEPS; step++) {
      await run.step().catch((error: unknown) => {
        throw new Error(`seed ${seed}, step ${step}`, { cause: error });
      });
    }
    await run.end();
    for (const [what, counts] of run.seen) {
      const sum = total.get(what) ?? { allowed: 0, denied: 0, authn: 0 };
      total.set(what, {
        allowed: sum.allowed + counts.allowed,
        denied: sum.denied + counts.denied,
        authn: sum.authn + counts.authn,
      });
    }
  }
  // Nothing is shown by a run in which one side never happened.
  const oneSided = [...total].filter(([, { allowed, denied }]) => allowed === 0 || denied === 0);
  expect(oneSided).toEqual([]);
  expect(total.size).toBe(28);
});
