import { explain, MillraceError } from '@millrace/core/error';

/** What a command ends with when it cannot do its work: `code: message`, and what to do next. Exit code 1. */
export class CommandFailure extends Error {
  override readonly name = 'CommandFailure';
  readonly code: string;
  readonly hint: string | undefined;

  constructor(code: string, message: string, hint?: string, cause?: unknown) {
    super(message, cause === undefined ? {} : { cause });
    this.code = code;
    this.hint = hint;
  }
}

/** The text for stderr, without a final newline. */
export function explainFailure(error: unknown): string {
  if (error instanceof CommandFailure) {
    return `${error.code}: ${error.message}${error.hint === undefined ? '' : `\n\n${error.hint}`}`;
  }
  if (error instanceof MillraceError) return explain(error);
  // File arguments: `ENOENT: no such file or directory, open 'x'` says it all.
  if (error instanceof Error && 'syscall' in error) return error.message;
  return explain(error);
}
