/** What one sink is fed: its changes from its cursor on, and the rows of its backfills between them. */
import type { Lsn } from '@millrace/core/lsn';
import { ORDINAL_END } from '@millrace/core/position';
import { BackfillFeed } from './backfill/backfill-feed.ts';
import type { BackfillManager } from './backfill/backfill-manager.ts';
import type { ChangeLog } from './change-log/change-log.ts';
import type { ContentNotice } from './decode/message-contents.ts';
import { MessageEncoder } from './decode/message-encoder.ts';
import { MessageSource } from './decode/message-source.ts';
import { type FormerSchemas, ReadEncoder } from './decode/read-encoder.ts';
import type { SchemaHistory } from './decode/schema-history.ts';
import type { OpenFeed } from './deliver/feed.ts';
import type { LastValues } from './last-values.ts';
import type { MarkSeal } from './mark-seal.ts';
import type { SinkSpec } from './sink-spec.ts';
import type { TableSchema } from './table-schema.ts';

export interface SinkFeedOptions {
  readonly spec: SinkSpec;
  readonly log: ChangeLog;
  readonly schemas: SchemaHistory;
  readonly manager: BackfillManager;
  readonly lastValues: LastValues | null;
  readonly seal: MarkSeal;
  readonly poke: () => void;
  /** Rejects while the publication, or the log after this LSN, lacks what the sink needs. */
  readonly published: (after: Lsn) => Promise<void>;
  /** Throws where the log lacks rows that the sink needs. */
  readonly announced: (table: TableSchema, lsn: Lsn) => void;
  readonly onNotice: ((sink: string, notice: ContentNotice) => void) | undefined;
}

export function openSinkFeed({
  spec,
  log,
  schemas,
  manager,
  lastValues,
  seal,
  poke,
  published,
  announced,
  onNotice,
}: SinkFeedOptions): OpenFeed {
  // Without rules nothing is hidden.
  const former: FormerSchemas | null =
    spec.rules === undefined ? null : { announced: (schema) => schemas.beforeNames(schema), read: new Map() };
  return async (cursor, signal, progress) => {
    await seal.ready();
    await published(cursor.position.lsn);
    const marks = seal.openAll(cursor.backfills);
    const encoder = new MessageEncoder({
      schemas,
      origin: spec.origin,
      takes: spec.takes,
      actions: spec.actions,
      contents: spec.contents,
      ...(spec.rules && { rules: spec.rules }),
      announced,
      marks,
      lastValues: spec.fillUnchanged ? lastValues : null,
      onNotice: (notice) => onNotice?.(spec.name, notice),
    });
    const changes = await MessageSource.open(log, schemas, encoder, cursor.position, signal);
    const reads = new ReadEncoder(spec.origin, spec.rules, former);
    const { position } = cursor;
    manager.attach({
      marks,
      write: (batch, table, bytes, columns, index, about) => reads.read(batch, table, bytes, columns, index, about),
      partialLsn: position.ordinal >= 0 && position.ordinal < ORDINAL_END ? position.lsn : null,
      inTransaction: () => changes.inTransaction,
      isMarked: progress === undefined ? undefined : (id) => progress.isMarked(id),
      poke,
    });
    encoder.watch = manager;
    return new BackfillFeed(
      changes,
      manager,
      (abort) => log.changed(abort),
      (mark) => seal.seal(mark),
    );
  };
}
