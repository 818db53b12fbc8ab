-- Version 3 of the users database: who may do what.

-- Whoever is `admin` may do everything. Nobody becomes it over the network: `users --admin EMAIL` does it.
ALTER TABLE users ADD COLUMN role TEXT NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'admin'));

-- Goes up whenever a token ends or a role changes: whoever sends a stream for the eyes of one user looks again then.
CREATE TABLE rights (
    changed INTEGER NOT NULL
) STRICT;
INSERT INTO rights VALUES (0);

CREATE TRIGGER token_ended AFTER DELETE ON tokens BEGIN
    UPDATE rights SET changed = changed + 1;
END;

CREATE TRIGGER role_changed AFTER UPDATE OF role ON users BEGIN
    UPDATE rights SET changed = changed + 1;
END;

-- Logins that failed within the last minute: each one twice, under its e-mail and under its client's address.
CREATE TABLE failed_logins (
    id      INTEGER PRIMARY KEY,
    subject BLOB NOT NULL,                            -- SHA-256: people type passwords into the wrong field
    at_ms   INTEGER NOT NULL                          -- milliseconds since 1970
) STRICT;

CREATE INDEX failed_logins_by_subject ON failed_logins (subject, at_ms);
CREATE INDEX failed_logins_by_time ON failed_logins (at_ms);
