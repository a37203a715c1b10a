-- Index of sessions: one row each, written by the Session object at every change of state (effects/index-d1.ts).
-- The object is the truth; `last_seq` keeps a late write from undoing a newer one. Times are RFC 3339, UTC.
CREATE TABLE sessions (
  id TEXT PRIMARY KEY,
  agent TEXT NOT NULL,
  state TEXT NOT NULL,            -- starting, idle, running, ending, ended
  created_at TEXT NOT NULL,
  expires_at TEXT,
  ended_at TEXT,
  ended_reason TEXT,
  timeout_s INTEGER NOT NULL,
  metadata TEXT NOT NULL,         -- JSON object of strings
  runs INTEGER NOT NULL,
  last_seq INTEGER NOT NULL,
  updated_at TEXT NOT NULL
) STRICT;

-- Lists page by (created_at, id), newest first, with or without a state.
CREATE INDEX sessions_by_age ON sessions (created_at DESC, id DESC);
CREATE INDEX sessions_by_state ON sessions (state, created_at DESC, id DESC);
