/** A processor that is made when the first batch comes, and anew when making it failed: what it needs may be away. */
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
      const processor = await get();
      // Whoever closed it meanwhile does not wait for this batch.
      if (closed) await processor.close();
      return await processor.process(batch, from, signal);
    },
    async close() {
      closed = true;
      await made?.then((processor) => processor.close()).catch(() => {});
    },
  };
}
