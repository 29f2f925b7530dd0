/** A configuration source as a file that applies to the same. */
import { Document, isScalar, visit } from 'yaml';
import { type ConfigSource, SECTIONS } from './config-source.ts';
import { namedSecretsBlock } from './secrets.ts';

const HEAD = `# What was applied, as millrace config export gives it. A secret that was written in it stands here as a name
# (kept:...), which millrace config apply replaces by what the server has.
`;

/** Without `sensitive` a secret that was given literally is a name for it; references are references either way. */
export function exportYaml({ blocks }: ConfigSource, sensitive: boolean): string {
  const shown = SECTIONS.filter((section) => blocks[section].length > 0).map((section) => [
    section,
    sensitive ? blocks[section] : blocks[section].map((block) => namedSecretsBlock(section, block)),
  ]);
  if (shown.length === 0) return '{}\n';
  const text = yamlOf(Object.fromEntries(shown));
  return sensitive ? text : `${HEAD}${text}`;
}

/** As a file that reads back to the same. */
export function yamlOf(value: unknown): string {
  const document = new Document(value, { aliasDuplicateObjects: false });
  visit(document, {
    Pair(_, { key }) {
      // Unquoted it would be a merge.
      if (isScalar(key) && key.value === '<<') key.type = 'QUOTE_DOUBLE';
    },
  });
  return document.toString({ lineWidth: 0 });
}
