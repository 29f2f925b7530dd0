/** COPY ... FROM STDIN over a `pg` client, which has the messages for it but no call. */
import type { Client, Connection, Submittable } from 'pg';

/** The parts of pg's connection that send COPY messages; its types leave them out. */
interface CopyConnection {
  query(text: string): void;
  sendCopyFromChunk(chunk: Buffer): void;
  endCopyFrom(): void;
}

/** `rows` in COPY's text format, made by copyLine. Goes out as one chunk: it is for batches, not for bulk. */
export function copyIn(client: Client, statement: string, rows: readonly string[]): Promise<void> {
  return new Promise((done, failed) => {
    let failure: Error | null = null;
    const query = {
      submit: (connection: Connection) => (connection as unknown as CopyConnection).query(statement),
      handleCopyInResponse(connection: CopyConnection) {
        connection.sendCopyFromChunk(Buffer.from(rows.join('')));
        connection.endCopyFrom();
      },
      handleError(error: Error) {
        failure = error;
        failed(error);
      },
      handleReadyForQuery: () => (failure === null ? done() : undefined),
      handleCommandComplete() {},
      handleRowDescription() {},
      handleDataRow() {},
      handleEmptyQuery() {},
    };
    client.query(query as unknown as Submittable);
  });
}

const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '\t': '\\t', '\n': '\\n', '\r': '\\r' };

export function copyLine(values: readonly (string | number | null)[]): string {
  const fields = values.map((value) =>
    value === null ? '\\N' : String(value).replace(/[\\\t\n\r]/g, (character) => ESCAPES[character]!),
  );
  return `${fields.join('\t')}\n`;
}
