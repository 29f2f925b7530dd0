/** Functions of a configuration whose code cannot run as it stands. Nothing of it is run. */
import { loadApplied } from '@millrace/api/applied/config-file';
import type { Applied, CodeFiles } from '@millrace/api/applied/draft';
import { type Config, invalid, type LoadOptions } from '@millrace/api/config';
import type { Problem } from '@millrace/api/config-document';
import { sourceProblem } from '@millrace/engine/transform/function-source';

export function functionProblems({ functions }: Config, codeFiles: CodeFiles): Problem[] {
  return functions.flatMap(({ name, type, code }) => {
    if (type === 'path' || type === 'enrichment') return [];
    const found = sourceProblem({ name, type, code });
    if (found === null) return [];
    const file = codeFiles.get(name);
    const place = found.line === null ? '' : `line ${found.line} of ${file ?? 'it'}: `;
    return [
      { line: 0, path: `functions "${name}".${file === undefined ? 'code' : 'file'}`, text: `${place}${found.text}` },
    ];
  });
}

/** A configuration file as a start takes it. Throws config_invalid with every problem, one per line. */
export function loadConfigFile(text: string, options: LoadOptions): Applied {
  const { source, config, codeFiles } = loadApplied(text, options);
  const problems = functionProblems(config, codeFiles);
  if (problems.length > 0) throw invalid(options.file, problems);
  return { source, config };
}
