/** A configuration file with what it refers to: to start from it, or to send it to a server that runs. */
import { invalid, type LoadOptions, referencesOf } from '../config.ts';
import { formatPath, parseConfigDocument } from '../config-document.ts';
import { expandReferences, type References } from '../config-references.ts';
import { type Applied, type CodeFiles, draftOfText, NOTHING_APPLIED } from './draft.ts';
import { yamlOf } from './export.ts';

/** As a file alone says it, with nothing applied before. Throws config_invalid with every problem, one per line. */
export function loadApplied(text: string, options: LoadOptions): Applied & { readonly codeFiles: CodeFiles } {
  const draft = draftOfText(text, { applied: NOTHING_APPLIED, outside: referencesOf(options), prune: true });
  if (!draft.ok) throw invalid(options.file, draft.problems);
  return { source: draft.source, config: draft.config, codeFiles: draft.codeFiles };
}

export interface Outside {
  readonly variables: Readonly<Record<string, string>>;
  readonly files: Readonly<Record<string, string>>;
}

/** What a file refers to and is there, by the names that the file has for it. */
export function outsideOf(text: string, options: LoadOptions): Outside {
  const variables: Record<string, string> = {};
  const files: Record<string, string> = {};
  const from = referencesOf(options);
  const outside: References = {
    variable(name) {
      const value = from.variable(name);
      if (value !== undefined) variables[name] = value;
      return value;
    },
    file(path) {
      const content = from.file(path);
      files[path] = content;
      return content;
    },
  };
  draftOfText(text, { applied: NOTHING_APPLIED, outside, prune: true });
  return { variables, files };
}

/** The file with every reference replaced. Throws config_invalid. */
export function interpolated(text: string, options: LoadOptions): string {
  const document = parseConfigDocument(text);
  const problems = [...document.problems];
  const value = expandReferences(document.value, referencesOf(options), (path, problem) =>
    problems.push({ line: document.lineOf(path), path: formatPath(path), text: problem }),
  );
  if (problems.length > 0) throw invalid(options.file, problems);
  return yamlOf(value);
}
