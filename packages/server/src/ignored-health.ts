/** As in Sequin: an entity with the annotation `ignore_health: true` is looked at, and does not count. */
export function ignoresHealth({ annotations }: { readonly annotations: Readonly<Record<string, unknown>> }): boolean {
  return annotations['ignore_health'] === true;
}
