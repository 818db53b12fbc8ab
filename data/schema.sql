-- The database of the users service, version 1. Applied once, to a new file; see src/users/sqlite.rs.

CREATE TABLE users (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,  -- an id that was deleted is never given out again
    email         TEXT NOT NULL,                      -- as it was written
    email_key     TEXT NOT NULL UNIQUE,               -- in lower case: how it is compared
    name          TEXT NOT NULL,
    password_hash TEXT,                               -- argon2id in PHC form; NULL: this user cannot log in
    created_at    TEXT NOT NULL,                      -- RFC 3339, UTC, milliseconds
    updated_at    TEXT NOT NULL
) STRICT;

CREATE TABLE tokens (
    hash       BLOB PRIMARY KEY,                      -- SHA-256 of the token; the token itself is stored nowhere
    user_id    INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX tokens_by_user ON tokens (user_id);
