/**
 * Secrets of a configuration source: where they stand, how they are shown, and how an export stands for them. A text
 * that only refers to a variable or a file is none: the reference may be shown.
 */
import type { Path } from '../config-document.ts';
import { expandReferences, mapTexts, type References } from '../config-references.ts';
import { configSchema } from '../config-schema.ts';
import { metaOf, schemaAt } from '../schema-walk.ts';
import type { ConfigSource, RawBlock, Section } from './config-source.ts';

export const REDACTED = '(redacted)';

const ONLY_REFERENCES = /^(?:\$\{[A-Za-z_][A-Za-z0-9_]*(?::-)?\}|\$\{file:[^}]+\})+$/;
const KEPT = /\$\{kept:([^}]+)\}/g;
/** What comes before the password of a URL, the password, and what comes after it. */
const URL_PASSWORD = /^([a-zA-Z][\w+.-]*:\/\/[^/?#@:]*:)(.*)(@[^@]*)$/s;

/** What is said of the text in `change`, for each text that is a secret; the others stay. */
function mapSecrets(
  section: Section,
  block: RawBlock,
  change: (secret: string, path: Path) => string,
  referencesPass = true,
): RawBlock {
  const schema = schemaAt(configSchema, null, section)!;
  const list = schemaAt(schema, [block], 0)!;
  const walk = (value: unknown, at: Parameters<typeof metaOf>[0] | undefined, secret: boolean, path: Path): unknown => {
    const meta = at === undefined ? {} : metaOf(at);
    const isSecret = secret || meta.secret === true;
    if (typeof value === 'string') {
      if (isSecret) return hidden(value, path);
      return meta.secretPart === 'password' || isUrl(value) ? inUrl(value, path) : value;
    }
    if (Array.isArray(value)) {
      return value.map((item, index) => walk(item, at && schemaAt(at, value, index), isSecret, [...path, index]));
    }
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, inner]) => [
        key,
        // Nothing is referred to in code. The names of headers in a list of secret ones are no secrets.
        key === 'code' ? inner : walk(inner, at && schemaAt(at, value, key), isSecret && key !== 'key', [...path, key]),
      ]),
    );
  };
  const hidden = (text: string, path: Path) =>
    text === '' || (referencesPass && ONLY_REFERENCES.test(text)) ? text : change(text, path);
  const inUrl = (text: string, path: Path) => {
    const parts = URL_PASSWORD.exec(text);
    return parts === null ? text : `${parts[1]}${hidden(parts[2]!, path)}${parts[3]}`;
  };
  return walk(block, list, false, []) as RawBlock;
}

/** A URL may hold a password wherever it stands. */
function isUrl(text: string): boolean {
  return text.length < 10_000 && URL_PASSWORD.test(text);
}

/** For people: secrets are `(redacted)`, references are shown. */
export function maskedBlock(section: Section, block: RawBlock): RawBlock {
  return mapSecrets(section, block, () => REDACTED);
}

/** For an export: each secret is a name that apply knows how to replace. */
export function namedSecretsBlock(section: Section, block: RawBlock): RawBlock {
  return mapSecrets(section, block, (_, path) => `\${kept:${keptName(section, block, path)}}`);
}

function keptName(section: Section, block: RawBlock, path: Path): string {
  return [section, encodeURIComponent(String(block.name)), path.map((part) => encodeURIComponent(part)).join('.')].join(
    '/',
  );
}

/** By the names that an export gives them. */
export function secretsOf({ blocks }: ConfigSource): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const [section, list] of Object.entries(blocks) as [Section, readonly RawBlock[]][]) {
    for (const block of list) {
      mapSecrets(section, block, (secret, path) => {
        found.set(keptName(section, block, path), secret);
        return secret;
      });
    }
  }
  return found;
}

/** A document with the secrets put back that an export of `source` left out. What is not there stays, to be refused. */
export function withKeptSecrets(document: unknown, source: ConfigSource): unknown {
  let secrets: ReadonlyMap<string, string> | null = null;
  return mapTexts(document, [], (text) =>
    text.includes('${kept:')
      ? text.replace(KEPT, (whole, name: string) => (secrets ??= secretsOf(source)).get(name) ?? whole)
      : text,
  );
}

/** `(redacted)`, as answers have it, is the secret that `before` has in its place. */
export function withSecretsOf(section: Section, block: RawBlock, before: RawBlock): RawBlock {
  const there = new Map<string, string>();
  mapSecrets(section, before, (secret, path) => {
    there.set(JSON.stringify(path), secret);
    return secret;
  });
  return mapSecrets(section, block, (secret, path) =>
    secret === REDACTED ? (there.get(JSON.stringify(path)) ?? secret) : secret,
  );
}

/** What other programs show in place of a secret, Sequin's export for one. */
const MASK = /^(?:\(redacted\)|\*{3,})$/;

/** Where a mask stands for a secret: it would become the secret. */
export function masksIn(section: Section, block: RawBlock): Path[] {
  const found: Path[] = [];
  mapSecrets(section, block, (secret, path) => {
    if (MASK.test(secret)) found.push(path);
    return secret;
  });
  return found;
}

/** As people and programs see it: references replaced, and secrets masked unless they are asked for. */
export function shownBlock(source: ConfigSource, section: Section, block: RawBlock, sensitive: boolean): RawBlock {
  const shown = sensitive ? block : mapSecrets(section, block, () => REDACTED, false);
  const references: References = {
    variable: (name) => source.references[name],
    file: (path) => source.references[`file:${path}`] ?? '',
  };
  return expandReferences(shown, references, () => {}) as RawBlock;
}
