/**
 * For what takes less long than `ended`, which rejects some day: what a promise comes to, or that end. A race between the
 * two would be kept by the one that lives longer, one for each request of a connection.
 */
export function beforeEnd(ended: Promise<never>): <T>(work: Promise<T>) => Promise<T> {
  const underWay = new Set<(error: unknown) => void>();
  let end: { readonly error: unknown } | null = null;
  ended.catch((error: unknown) => {
    end = { error };
    for (const reject of underWay) reject(error);
    underWay.clear();
  });
  return (work) =>
    new Promise((resolve, reject) => {
      if (end !== null) reject(end.error);
      else underWay.add(reject);
      work.then(resolve, reject).finally(() => underWay.delete(reject));
    });
}
