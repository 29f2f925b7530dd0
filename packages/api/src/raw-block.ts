/** Looking into a configuration whose values may be anything yet. */
import type { Path } from './config-document.ts';

export type Report = (path: Path, text: string) => void;
export type Block = Readonly<Record<string, unknown>>;

export function given(value: unknown): boolean {
  return value !== undefined && value !== null;
}

export function block(value: unknown): Block | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Block) : undefined;
}

/** What is no block is an empty one: the schema says so elsewhere. */
export function list(value: unknown): readonly Block[] {
  return Array.isArray(value) ? value.map((item) => block(item) ?? {}) : [];
}

export function meant(name: string | null): string {
  return name === null ? '' : ` (did you mean "${name}"?)`;
}
