/** The settings that all sessions with one source have in common (I10), in the state table: those of the first session. */
import { PINNED_SETTINGS, type PinnedSettings, type SettingsPin } from '@millrace/postgres/session-settings';
import type { StateTable } from '@millrace/stream-store/store';

export function settingsPin(state: StateTable, key: string): SettingsPin {
  const stored = state.get(key);
  let settings = stored === undefined ? null : parseSettings(stored);
  return {
    get settings() {
      return settings;
    },
    async keep(found) {
      // Of two first sessions at once the faster one counts.
      settings ??= found;
      await state.put(key, Buffer.from(JSON.stringify(settings)));
    },
  };
}

/** Null, and found again, when it is of a version that knew other settings. */
function parseSettings(bytes: Uint8Array): PinnedSettings | null {
  const json = JSON.parse(Buffer.from(bytes).toString()) as PinnedSettings;
  return PINNED_SETTINGS.every((name) => typeof json[name] === 'string') ? json : null;
}
