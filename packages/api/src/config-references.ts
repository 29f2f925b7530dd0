// biome-ignore-all lint/suspicious/noTemplateCurlyInString: messages show the ${VAR} syntax.

/**
 * What a text of the configuration may refer to: `${NAME}` and `${NAME:-default}`, variables of the environment;
 * `${file:path}`, the content of a file; `${kept:name}`, a secret that an export left out and that whoever applies the
 * export has. `$${` stands for a literal `${`. Nothing is expanded in the code of functions, where it means something.
 */
import type { Path } from './config-document.ts';
import { readFailure } from './read-failure.ts';

export interface References {
  variable(name: string): string | undefined;
  /** Without a last line break. Throws as readFile does. */
  file(path: string): string;
}

/** The default ends at the first `}`. */
const REFERENCE = /\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|(file|kept):([^}]+)\})?/g;

const SYNTAX = 'after "${" comes NAME}, NAME:-default} or file:path}; write "$${" for a literal "${"';

type Report = (path: Path, text: string) => void;

/** A key whose text is code of its own. */
export function isCode(key: string | number): boolean {
  return key === 'code';
}

/** The value with every reference replaced by what it stands for. */
export function expandReferences(value: unknown, references: References, report: Report): unknown {
  return mapTexts(value, [], (text, path) => expandText(text, references, (problem) => report(path, problem)));
}

/** The value with its texts changed, except code. What stays the same may be shared with the original. */
export function mapTexts(value: unknown, path: Path, change: (text: string, path: Path) => string): unknown {
  if (typeof value === 'string') return change(value, path);
  if (Array.isArray(value)) return value.map((item, index) => mapTexts(item, [...path, index], change));
  if (typeof value !== 'object' || value === null) return value;
  const changed: Record<string, unknown> = Object.create(null);
  for (const [key, inner] of Object.entries(value)) {
    changed[key] = isCode(key) && typeof inner === 'string' ? inner : mapTexts(inner, [...path, key], change);
  }
  return changed;
}

export function expandText(text: string, references: References, report: (problem: string) => void): string {
  return text.replace(REFERENCE, (whole, name?: string, fallback?: string, scheme?: string, target?: string) => {
    if (whole === '$${') return '${';
    if (scheme === 'file') {
      try {
        return references.file(target!).replace(/\r?\n$/, '');
      } catch (error) {
        report(`\${file:${target}} cannot be read: ${readFailure(error)}`);
        return whole;
      }
    }
    if (scheme === 'kept') {
      report('stands for a secret that an export left out; give the value, or apply to a server that has it');
      return whole;
    }
    if (name === undefined) {
      report(SYNTAX);
      return whole;
    }
    const value = references.variable(name);
    // As in a shell: ":-" also stands in for a variable that is set but empty.
    if (fallback !== undefined) return value === undefined || value === '' ? fallback : value;
    if (value === undefined) {
      report(`the environment variable ${name} is not set (or give a default: \${${name}:-...})`);
      return '';
    }
    return value;
  });
}

/** The variables and files that a value refers to. */
export function referencesIn(value: unknown): { readonly variables: Set<string>; readonly files: Set<string> } {
  const variables = new Set<string>();
  const files = new Set<string>();
  mapTexts(value, [], (text) => {
    for (const [, name, , scheme, target] of text.matchAll(REFERENCE)) {
      if (name !== undefined) variables.add(name);
      if (scheme === 'file') files.add(target!);
    }
    return text;
  });
  return { variables, files };
}
