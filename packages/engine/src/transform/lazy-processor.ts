/** A processor that is made when the first batch comes, and anew when making it failed: what it needs may be away. */
import { MillraceError } from '@millrace/core/error';
import type { Processor } from './processor.ts';

export function lazyProcessor(make: () => Promise<Processor>): Processor {
  let made: Promise<Processor> | null = null;
  let closed = false;
  const get = (): Promise<Processor> => {
    made ??= make().catch((error: unknown) => {
      made = null;
      throw error;
    });
    return made;
  };
  return {
    async process(batch, from, signal) {
      if (closed) throw new MillraceError('storage_closed');
      const processor = await get();
      return await processor.process(batch, from, signal);
    },
    async close() {
      closed = true;
      await made?.then((processor) => processor.close()).catch(() => {});
    },
  };
}
