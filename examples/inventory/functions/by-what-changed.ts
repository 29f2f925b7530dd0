/** Where a change of the shop goes: by its table, and by which columns are others than before. */
export function route(
  action: string,
  record: Record<string, unknown>,
  changes: Record<string, unknown> | null,
  metadata: { readonly table_name: string },
): { stream: string } {
  const changed = (column: string) => action === 'update' && changes !== null && column in changes;
  switch (metadata.table_name) {
    case 'users': {
      const profile = changed('name') || changed('city') || changed('email');
      return { stream: profile && !changed('last_login_at') ? 'user_profile_updates' : 'user_auth_events' };
    }
    case 'products':
      if (changed('price') && Number(record.price) < Number(changes?.price)) return { stream: 'price_alerts' };
      return { stream: changed('category') ? 'category_updates' : 'inventory_updates' };
    default:
      return { stream: changed('payment_status') ? 'payment_notifications' : 'order_processing' };
  }
}
