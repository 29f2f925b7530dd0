/** Whether a source needs its row index, and for what; one that nothing needs any more is removed. */
import { sinkKey } from '@millrace/core/sink-key';
import type { BackfillSource } from './backfill/backfill-source.ts';
import type { SourceConfig } from './capture/source.ts';
import type { ChangeLog } from './change-log/change-log.ts';
import type { SchemaHistory } from './decode/schema-history.ts';
import { cursorStore } from './deliver/cursor-store.ts';
import type { PipelineOptions } from './pipeline-options.ts';
import { forgetRowIndex, type RowIndex, startRowIndex } from './row-index.ts';
import type { SinkSpec } from './sink-spec.ts';

export interface RowIndexParts {
  readonly options: Pick<PipelineOptions, 'rows' | 'state' | 'onNotice'>;
  readonly key: string;
  readonly source: SourceConfig;
  /** Those that are not disabled. */
  readonly sinks: readonly SinkSpec[];
  readonly log: ChangeLog;
  readonly schemas: SchemaHistory;
  readonly backfills: BackfillSource;
  readonly poke: () => void;
}

/** Whole rows are kept: of some table at least. */
export function needsRowIndex(
  { rows }: Pick<PipelineOptions, 'rows'>,
  { slot }: SourceConfig,
  sinks: readonly Pick<SinkSpec, 'fillUnchanged' | 'status'>[],
): boolean {
  if (rows === undefined) return false;
  if (rows.audit !== null || slot.onLoss === 'repair') return true;
  return sinks.some((spec) => spec.fillUnchanged && spec.status !== 'disabled');
}

/** Every table for a repair or the auditor; for sinks with fill_unchanged those that they take. null: not needed. */
export async function openRowIndex(parts: RowIndexParts): Promise<RowIndex | null> {
  const { options, key, source, sinks, log, schemas, backfills, poke } = parts;
  const { state, rows, onNotice } = options;
  if (rows === undefined) return null;
  const { file, audit } = rows;
  const fills = sinks.filter((spec) => spec.fillUnchanged);
  const all = audit !== null || source.slot.onLoss === 'repair';
  if (!all && fills.length === 0) {
    await forgetRowIndex({ file, state, key });
    return null;
  }
  const filled = (schema: string, table: string) => fills.some((spec) => spec.takes(schema, table));
  return await startRowIndex({
    file,
    state,
    key,
    log,
    schemas,
    backfills,
    publication: source.publication.name,
    takes: all ? () => true : filled,
    keepsValues: filled,
    askers: () => fills.map(({ name }) => cursorStore(state, sinkKey(name, 'cursor')).load()!.position),
    poke,
    onNotice: (text) => onNotice?.({ kind: 'row_index', text }),
  });
}
