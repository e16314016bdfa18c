-- What devices say of what they are doing now (docs/format/presence.md): sealed, and for a minute. Lost with a server that
-- crashes, as it is said anew within seconds. `mark`: of drive, device and key, to see that a set has changed.
CREATE UNLOGGED TABLE presence (
    drive   bigint NOT NULL,
    device  bigint NOT NULL,
    key     bytea NOT NULL CHECK (octet_length(key) = 32),
    mark    bigint NOT NULL,
    body    bytea NOT NULL,
    expires timestamptz NOT NULL,
    PRIMARY KEY (drive, device, key)
);
CREATE INDEX presence_expires ON presence (expires);
