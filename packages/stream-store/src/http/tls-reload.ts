import { type StatWatcher, unwatchFile, watchFile } from 'node:fs';
import { MillraceError } from '@millrace/core/error';
import type { SecureIdentity } from './listener.ts';
import { loadTlsIdentity, type TlsSource } from './tls-identity.ts';

/** Puts a renewed certificate into service without a restart: when its files change, or when told to. */
export interface TlsReload {
  /** Reads the files again. What cannot be used is reported, and the certificate in service stays. */
  now(): Promise<void>;
  stop(): void;
}

export interface TlsReloadOptions {
  readonly source: TlsSource;
  readonly fingerprint: string;
  readonly replace: (identity: SecureIdentity) => void;
  readonly log: (line: string) => void;
  readonly checkMs: number;
}

export function reloadTls({ source, fingerprint, replace, log, checkMs }: TlsReloadOptions): TlsReload {
  let inService = fingerprint;
  let reading = Promise.resolve();

  async function read(): Promise<void> {
    try {
      const identity = await loadTlsIdentity(source);
      if (identity.warning !== null) log(identity.warning);
      if (identity.fingerprint === inService) return;
      replace(identity);
      inService = identity.fingerprint;
      log(`New TLS certificate in service, SHA-256 ${inService}`);
    } catch (error) {
      if (!(error instanceof MillraceError)) throw error;
      // Certificate and key are renewed one after the other: in between they do not fit.
      log(`${error.message} The certificate in service stays. (${error.code})`);
    }
  }
  const now = () => (reading = reading.then(read));

  // Polls by name: links are followed, as those that secret stores put new files behind.
  const watched = source.kind === 'files' ? [source.certFile, source.keyFile] : [];
  const onChange = () => void now();
  for (const file of watched) {
    const watcher: StatWatcher = watchFile(file, { interval: checkMs, persistent: false }, onChange);
    watcher.unref();
  }
  return {
    now,
    stop() {
      for (const file of watched) unwatchFile(file, onChange);
    },
  };
}
