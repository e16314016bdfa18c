-- The first schema. Block states: 0 stored, and named by no commit; 1 named; 2 released. A block may lie in several
-- places: a device can doubt one, and give the block anew, and no device can have one forgotten.

CREATE TABLE account (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email    text NOT NULL UNIQUE,
    created  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE device (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account  bigint NOT NULL REFERENCES account ON DELETE CASCADE,
    name     text NOT NULL,
    token    bytea NOT NULL UNIQUE,               -- SHA-256 of the bearer token
    seen     timestamptz NOT NULL DEFAULT now(),
    revoked  timestamptz
);

CREATE TABLE drive (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid      bytea NOT NULL UNIQUE CHECK (octet_length(uuid) = 16),
    account   bigint NOT NULL REFERENCES account ON DELETE CASCADE,
    head      bigint NOT NULL DEFAULT 0,
    head_hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    created   timestamptz NOT NULL DEFAULT now()
);

-- `encoded` is the commit whole, which is opaque but for its envelope.
CREATE TABLE commit (
    drive   bigint NOT NULL REFERENCES drive ON DELETE CASCADE,
    number  bigint NOT NULL,
    hash    bytea NOT NULL,
    encoded bytea NOT NULL,
    PRIMARY KEY (drive, number)
);
ALTER TABLE commit ALTER COLUMN encoded SET STORAGE EXTERNAL;

CREATE TABLE pack (
    id      bytea PRIMARY KEY CHECK (octet_length(id) = 16),
    drive   bigint NOT NULL REFERENCES drive,
    size    integer NOT NULL,
    nodes   text[] NOT NULL,
    missing integer NOT NULL DEFAULT 0            -- bits of the fragments that are not stored
);

CREATE TABLE block (
    drive    bigint NOT NULL,
    id       bytea NOT NULL CHECK (octet_length(id) = 32),
    state    smallint NOT NULL DEFAULT 0,
    changed  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (drive, id)
);
CREATE INDEX block_to_delete ON block (changed) WHERE state <> 1;

CREATE TABLE place (
    drive    bigint NOT NULL,
    id       bytea NOT NULL,
    pack     bytea NOT NULL REFERENCES pack,
    position integer NOT NULL,
    length   integer NOT NULL,
    added    timestamptz NOT NULL DEFAULT clock_timestamp(),
    doubted  timestamptz,                         -- a device says that these are not the block's bytes
    PRIMARY KEY (drive, id, pack),
    FOREIGN KEY (drive, id) REFERENCES block ON DELETE CASCADE
);
CREATE INDEX place_by_pack ON place (pack);

CREATE TABLE root (
    drive bigint NOT NULL REFERENCES drive ON DELETE CASCADE,
    name  text NOT NULL,
    data  bytea NOT NULL,
    PRIMARY KEY (drive, name)
);

-- Locks in one order: the drive, then its blocks by id. Answers: outcome, head, its hash, missing blocks.
CREATE FUNCTION append_commit(
    in_drive bigint, expected bigint, expected_hash bytea, in_hash bytea, in_encoded bytea,
    in_added bytea[], in_dropped bytea[],
    OUT outcome text, OUT head bigint, OUT head_hash bytea, OUT missing bytea[]
) LANGUAGE plpgsql AS $$
BEGIN
    SELECT d.head, d.head_hash INTO head, head_hash FROM drive d WHERE d.id = in_drive FOR NO KEY UPDATE;
    IF NOT FOUND THEN outcome := 'gone'; RETURN; END IF;
    IF head_hash = in_hash THEN outcome := 'head'; RETURN; END IF;
    IF head <> expected OR head_hash <> expected_hash THEN outcome := 'moved'; RETURN; END IF;
    PERFORM 1 FROM block b WHERE b.drive = in_drive AND b.id = ANY (in_added || in_dropped)
        ORDER BY b.id FOR UPDATE;
    SELECT array_agg(a) INTO missing FROM unnest(in_added) a
        WHERE NOT EXISTS (SELECT 1 FROM block b WHERE b.drive = in_drive AND b.id = a);
    IF missing IS NOT NULL THEN outcome := 'missing'; RETURN; END IF;
    UPDATE block b SET state = 2, changed = now()
        WHERE b.drive = in_drive AND b.id = ANY (in_dropped) AND b.state <> 2;
    UPDATE block b SET state = 1, changed = now()
        WHERE b.drive = in_drive AND b.id = ANY (in_added) AND b.state <> 1;
    head := head + 1;
    head_hash := in_hash;
    INSERT INTO commit (drive, number, hash, encoded) VALUES (in_drive, head, in_hash, in_encoded);
    UPDATE drive d SET head = append_commit.head, head_hash = in_hash WHERE d.id = in_drive;
    outcome := 'appended';
END $$;
