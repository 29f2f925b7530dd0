/** The engine's log in a world: appended to, trimmed, and what it has to hold. */
import { ByteWriter } from '@millrace/core/byte-writer';
import { writeSequencedRecord } from '../../src/record-writer.ts';
import { readAll } from '../store-rig.ts';
import { Expected, type Ground } from './expected.ts';
import { equal, same, settle } from './judgement.ts';
import { LOG_STREAM } from './snapshot.ts';

interface LogContent {
  readonly bodies: readonly string[];
  readonly trimPoint: number;
}

export class ExpectedLog {
  readonly #ground: Ground;
  /** null: it was not made yet. */
  readonly #log: Expected<LogContent | null>;

  constructor(ground: Ground, log = new Expected<LogContent | null>(null)) {
    this.#ground = ground;
    this.#log = log;
  }

  fork(ground: Ground): ExpectedLog {
    return new ExpectedLog(ground, this.#log.clone());
  }

  get inFlight(): readonly string[] {
    return this.#log.inFlight;
  }

  async step(): Promise<void> {
    const { store, random } = this.#ground;
    const log = this.#log.assumed;
    if (log === null) {
      const done = this.#log.begin('create log', { bodies: [], trimPoint: 0 });
      await store.createLogStream(LOG_STREAM);
      return done();
    }
    const stream = store.openLogStream(LOG_STREAM);
    if (stream === null) throw new Error('the log stream is gone (1)');
    if (random.chance(0.3)) {
      const trimPoint = random.integer(log.bodies.length + 1);
      const done = this.#log.begin('trim log', { ...log, trimPoint: Math.max(log.trimPoint, trimPoint) });
      await stream.trim(trimPoint);
      return done();
    }
    const firstSeqNum = log.bodies.length;
    const body = `change ${firstSeqNum} `.padEnd(100 + random.integer(900), '.');
    const timestamp = BigInt(firstSeqNum + 1) << 40n;
    const out = new ByteWriter(64);
    const meteredBytes = writeSequencedRecord(out, firstSeqNum, timestamp, [], Buffer.from(body));
    const done = this.#log.begin('append log', { ...log, bodies: [...log.bodies, body] });
    const ack = await stream.appendSequenced({ records: out.view(), firstSeqNum, timestamp, count: 1, meteredBytes });
    equal(ack.end.seqNum, firstSeqNum + 1, 'end of an acknowledgement of the log (1)');
    done();
  }

  async check(): Promise<void> {
    const stream = this.#ground.store.openLogStream(LOG_STREAM);
    const bodies = stream === null ? [] : (await readAll(stream)).map(({ body }) => body);
    const matches = (log: LogContent | null) => {
      if (log === null || stream === null) return log === stream;
      const { seqNum } = stream.tail;
      return (
        seqNum === log.bodies.length &&
        stream.firstSeqNum === log.trimPoint &&
        same(bodies, log.bodies.slice(log.trimPoint))
      );
    };
    const found = { tail: stream?.tail, first: stream?.firstSeqNum };
    settle(this.#log, matches, 'the log (1, 2, 14)', found);
  }

  /** A first part of it is there, and not all. */
  async isCut(): Promise<boolean> {
    const { bodies, trimPoint } = this.#log.certain ?? { bodies: [], trimPoint: 0 };
    const stream = this.#ground.store.openLogStream(LOG_STREAM);
    if (stream === null) return bodies.length > 0;
    const found = (await readAll(stream)).map(({ body }) => body);
    const { tail, firstSeqNum } = stream;
    if (firstSeqNum > trimPoint || tail.seqNum < firstSeqNum) throw new Error('the cut log does not fit together');
    const isCut = tail.seqNum < bodies.length || firstSeqNum < trimPoint;
    return isCut && same(found, bodies.slice(firstSeqNum, tail.seqNum));
  }
}
