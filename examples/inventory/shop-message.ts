/** What the streams of the shop hold, as far as its consumers look at it. */
export interface ShopMessage<Row = Readonly<Record<string, unknown>>> {
  readonly action: 'insert' | 'update' | 'delete' | 'read';
  readonly record: Row;
  readonly changes: Partial<Row> | null;
  readonly metadata: {
    readonly table_name: string;
    readonly commit_timestamp: string;
    readonly idempotency_key: string;
  };
}

export interface Product {
  readonly id: number;
  readonly name: string;
  readonly category: string;
  /** Decimal text. */
  readonly price: string;
  readonly cost: string;
  readonly margin: string | null;
  readonly stock: number;
}

export const STREAMS = [
  'user_auth_events',
  'user_profile_updates',
  'inventory_updates',
  'price_alerts',
  'category_updates',
  'payment_notifications',
  'order_processing',
] as const;
