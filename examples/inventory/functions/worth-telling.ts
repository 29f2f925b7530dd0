/** The margin is kept by one of our own consumers: telling everybody of it, and that consumer again, would be noise. */
export function filter(
  action: string,
  _record: Record<string, unknown>,
  changes: Record<string, unknown> | null,
  metadata: { readonly table_name: string },
): boolean {
  if (metadata.table_name !== 'products' || action !== 'update') return true;
  return Object.keys(changes ?? {}).some((column) => column !== 'margin');
}
