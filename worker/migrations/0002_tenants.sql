-- Every session belongs to a tenant; '' is the operator's own.
ALTER TABLE sessions ADD COLUMN tenant TEXT NOT NULL DEFAULT '';
CREATE INDEX sessions_by_tenant ON sessions (tenant, created_at DESC, id DESC);
