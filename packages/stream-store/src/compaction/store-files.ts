import { assert } from '@millrace/core/assert';
import { PACK_FILE_BASE } from '../journal/file-names.ts';
import type { Manifest, PackEntry } from './manifest.ts';

/** Which files the main journal consists of, as of the last durable manifest; and the numbers of packs to come. */
export class StoreFiles {
  readonly #identity: { readonly journalId: string; readonly marker: number };
  #manifest: Manifest | null;
  #nextPack: number;
  #replacing = false;

  /** `highest`: of all packs in the directory, leftovers too, so that no number is ever given twice. -1: none. */
  constructor(
    manifest: Manifest | null,
    identity: { readonly journalId: string; readonly marker: number },
    highest: number,
  ) {
    this.#manifest = manifest;
    this.#identity = identity;
    this.#nextPack = Math.max(manifest?.nextPack ?? PACK_FILE_BASE, highest + 1);
  }

  get manifest(): Manifest | null {
    return this.#manifest;
  }

  get packs(): readonly PackEntry[] {
    return this.#manifest?.packs ?? [];
  }

  get firstSegment(): number {
    return this.#manifest?.firstSegment ?? 1;
  }

  get generation(): number {
    return this.#manifest?.generation ?? 0;
  }

  /** Of the files that the places in memory mean; -1 while some mean the files before and some those after. */
  get placesGeneration(): number {
    return this.#replacing ? -1 : this.generation;
  }

  takePack(): number {
    assert(this.#nextPack < 0xffff_ffff, 'file numbers are u32');
    return this.#nextPack++;
  }

  /** The manifest after this one; not yet in force. */
  next(change: Pick<Manifest, 'base' | 'firstSegment' | 'packs'>): Manifest {
    return { ...this.#identity, ...change, generation: this.generation + 1, nextPack: this.#nextPack };
  }

  /** `manifest` is durable: from here to `replaced` the places in memory change over to its files. */
  replacing(manifest: Manifest): void {
    assert(manifest.generation === this.generation + 1, 'manifests follow each other');
    this.#manifest = manifest;
    this.#replacing = true;
  }

  replaced(): void {
    this.#replacing = false;
  }
}
