import type {
  BasinConfig,
  BasinReconfiguration,
  PartialStreamConfig,
  StreamConfig,
  StreamReconfiguration,
} from './model.ts';
import { DEFAULT_STREAM_CONFIG } from './model.ts';

/*
 * How configurations are checked, merged and changed. Checks return the reason (422 `invalid`), or null; whatever has
 * the wrong JSON type or an unknown name is refused before, where JSON is read.
 */

/** Also for the default_stream_config of a basin. */
export function checkStreamConfig(config: PartialStreamConfig): string | null {
  return checkRetention(config.retentionSecs) ?? checkMinAge(config.deleteOnEmptyMinAgeSecs);
}

export function checkBasinConfig(config: BasinConfig): string | null {
  return checkStreamConfig(config.defaultStreamConfig);
}

export function checkStreamReconfiguration(change: StreamReconfiguration): string | null {
  return checkRetention(change.retention?.secs) ?? checkMinAge(change.deleteOnEmptyMinAgeSecs ?? undefined);
}

export function checkBasinReconfiguration(change: BasinReconfiguration): string | null {
  return change.defaultStreamConfig == null ? null : checkStreamReconfiguration(change.defaultStreamConfig);
}

function checkRetention(secs: number | null | undefined): string | null {
  if (secs === null || secs === undefined) return null;
  return Number.isInteger(secs) && secs > 0 ? null : 'the age of a retention policy is a whole number above 0';
}

function checkMinAge(secs: number | undefined): string | null {
  if (secs === undefined) return null;
  return Number.isInteger(secs) && secs >= 0 ? null : 'min_age_secs is a whole number, 0 or more';
}

/** Stream value, else basin default, else system default. */
export function resolveStreamConfig(config: PartialStreamConfig, basinDefault: PartialStreamConfig): StreamConfig {
  const pick = <K extends keyof StreamConfig>(key: K): StreamConfig[K] => {
    const own = config[key];
    if (own !== undefined) return own as StreamConfig[K];
    const inherited = basinDefault[key];
    return inherited === undefined ? DEFAULT_STREAM_CONFIG[key] : (inherited as StreamConfig[K]);
  };
  return {
    storageClass: pick('storageClass'),
    retentionSecs: pick('retentionSecs'),
    timestampingMode: pick('timestampingMode'),
    timestampingUncapped: pick('timestampingUncapped'),
    deleteOnEmptyMinAgeSecs: pick('deleteOnEmptyMinAgeSecs'),
  };
}

/** The set fields only, in a fixed order, so that equal configurations have equal JSON. */
export function normalizePartial(config: PartialStreamConfig): PartialStreamConfig {
  const normal: { -readonly [K in keyof PartialStreamConfig]: PartialStreamConfig[K] } = {};
  if (config.storageClass !== undefined) normal.storageClass = config.storageClass;
  if (config.retentionSecs !== undefined) normal.retentionSecs = config.retentionSecs;
  if (config.timestampingMode !== undefined) normal.timestampingMode = config.timestampingMode;
  if (config.timestampingUncapped !== undefined) normal.timestampingUncapped = config.timestampingUncapped;
  if (config.deleteOnEmptyMinAgeSecs !== undefined) normal.deleteOnEmptyMinAgeSecs = config.deleteOnEmptyMinAgeSecs;
  return normal;
}

export function normalizeBasinConfig(config: BasinConfig): BasinConfig {
  return {
    defaultStreamConfig: normalizePartial(config.defaultStreamConfig),
    streamCipher: config.streamCipher,
    createStreamOnAppend: config.createStreamOnAppend,
    createStreamOnRead: config.createStreamOnRead,
  };
}

export function sameConfig(a: StreamConfig | BasinConfig, b: StreamConfig | BasinConfig): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Tri-state change of a partial config: a null clears the field. */
export function changePartial(config: PartialStreamConfig, change: StreamReconfiguration): PartialStreamConfig {
  const retentionSecs =
    change.retention === undefined
      ? config.retentionSecs
      : change.retention === null
        ? undefined
        : change.retention.secs;
  return normalizePartial({
    storageClass: changed(config.storageClass, change.storageClass),
    retentionSecs,
    timestampingMode: changed(config.timestampingMode, change.timestampingMode),
    timestampingUncapped: changed(config.timestampingUncapped, change.timestampingUncapped),
    deleteOnEmptyMinAgeSecs: changed(config.deleteOnEmptyMinAgeSecs, change.deleteOnEmptyMinAgeSecs),
  });
}

/** Of a stream, whose config is resolved: a null resets to the basin's default of now. */
export function changeStreamConfig(
  config: StreamConfig,
  change: StreamReconfiguration,
  basinDefault: PartialStreamConfig,
): StreamConfig {
  return resolveStreamConfig(changePartial(config, change), basinDefault);
}

export function changeBasinConfig(config: BasinConfig, change: BasinReconfiguration): BasinConfig {
  const defaults = change.defaultStreamConfig;
  return normalizeBasinConfig({
    defaultStreamConfig:
      defaults === undefined
        ? config.defaultStreamConfig
        : defaults === null
          ? {}
          : changePartial(config.defaultStreamConfig, defaults),
    streamCipher: change.streamCipher === undefined ? config.streamCipher : change.streamCipher,
    createStreamOnAppend: change.createStreamOnAppend ?? config.createStreamOnAppend,
    createStreamOnRead: change.createStreamOnRead ?? config.createStreamOnRead,
  });
}

function changed<T>(current: T | undefined, change: T | null | undefined): T | undefined {
  if (change === undefined) return current;
  return change === null ? undefined : change;
}
