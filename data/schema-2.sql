-- Version 2 of the users database: the change feed.

-- Which change made a user what it is now: the user's version, for ETag and If-Match.
ALTER TABLE users ADD COLUMN changed_seq INTEGER NOT NULL DEFAULT 0;

-- Every change, written in the transaction that makes it. Numbers have no gaps and are in the order of commits.
CREATE TABLE changes (
    seq     INTEGER PRIMARY KEY,
    kind    TEXT NOT NULL CHECK (kind IN ('created', 'updated', 'deleted')),
    user_id INTEGER NOT NULL,
    user    TEXT,                                     -- JSON, without the password; NULL: the user is no more
    at      TEXT NOT NULL
) STRICT;

-- The loopback ports on which the users processes that share this file wait for the news of a commit.
CREATE TABLE bells (
    port INTEGER PRIMARY KEY
) STRICT;
