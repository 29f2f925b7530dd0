-- Only for `--once`: Postgres' own account of what happened, by triggers, and where it should have gone. It knows nothing
-- of Millrace or of the functions, and is not published.
CREATE SCHEMA audit;
CREATE TABLE audit.changes (
  id bigserial PRIMARY KEY,
  table_name text NOT NULL,
  action text NOT NULL,
  old jsonb,
  new jsonb
);
CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO audit.changes (table_name, action, old, new)
  VALUES (TG_TABLE_NAME, lower(TG_OP), CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON users FOR EACH ROW EXECUTE FUNCTION audit.note();
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON products FOR EACH ROW EXECUTE FUNCTION audit.note();
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION audit.note();

CREATE VIEW audit.expected AS
SELECT id, table_name, action, coalesce(new, old) AS row,
  CASE table_name
    WHEN 'users' THEN
      CASE WHEN action = 'update' AND (old ->> 'name', old ->> 'city', old ->> 'email') IS DISTINCT FROM (new ->> 'name', new ->> 'city', new ->> 'email')
          AND old ->> 'last_login_at' IS NOT DISTINCT FROM new ->> 'last_login_at'
        THEN 'user_profile_updates' ELSE 'user_auth_events' END
    WHEN 'products' THEN
      CASE WHEN action = 'update' AND (new ->> 'price')::numeric < (old ->> 'price')::numeric THEN 'price_alerts'
        WHEN action = 'update' AND new ->> 'category' <> old ->> 'category' THEN 'category_updates'
        ELSE 'inventory_updates' END
    WHEN 'orders' THEN
      CASE WHEN action = 'update' AND new ->> 'payment_status' <> old ->> 'payment_status'
        THEN 'payment_notifications' ELSE 'order_processing' END
  END AS stream
FROM audit.changes
WHERE NOT (table_name = 'products' AND action = 'update' AND old - 'margin' = new - 'margin');
