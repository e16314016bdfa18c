-- Accounts that people log in to, and the room that each takes. What is sealed, devices have sealed, or the hub under its
-- pepper, which is in no database.

ALTER TABLE account
    ADD COLUMN quota      bigint NOT NULL DEFAULT 10000000000 CHECK (quota >= 0),   -- sealed bytes
    ADD COLUMN invitation bytea,                  -- SHA-256 of the code by which the address may sign up
    ADD COLUMN locked     timestamptz,            -- by the operator
    ADD COLUMN deleted    timestamptz;            -- it goes when its drives are gone

-- A secret that opens the account. `verifier` is keyed by the pepper, `wrapped` is sealed under it once more.
CREATE TABLE credential (
    account    bigint NOT NULL REFERENCES account ON DELETE CASCADE,
    kind       text NOT NULL CHECK (kind IN ('passphrase', 'recovery')),
    salt       bytea NOT NULL,
    memory_kib bigint NOT NULL,
    iterations bigint NOT NULL,
    lanes      bigint NOT NULL,
    verifier   bytea NOT NULL,
    wrapped    bytea NOT NULL,
    PRIMARY KEY (account, kind)
);

-- Codes by time (RFC 6238). `step` is that of the last code that was taken: none is taken twice.
CREATE TABLE second_factor (
    account   bigint PRIMARY KEY REFERENCES account ON DELETE CASCADE,
    secret    bytea NOT NULL,
    step      bigint NOT NULL DEFAULT 0,
    confirmed boolean NOT NULL DEFAULT false
);

-- Failed logins, by a keyed hash of the address: addresses without an account have theirs too, and the rows are bounded.
CREATE TABLE login_attempt (
    bucket  integer PRIMARY KEY,
    tokens  double precision NOT NULL,            -- attempts that are left
    changed timestamptz NOT NULL
);

ALTER TABLE device
    ALTER COLUMN name SET DEFAULT '',             -- not written any more
    ADD COLUMN sealed_name bytea NOT NULL DEFAULT '' CHECK (octet_length(sealed_name) <= 4096),
    ADD COLUMN next_token  bytea UNIQUE,          -- counts from its first use; until then the old one does
    ADD COLUMN created     timestamptz NOT NULL DEFAULT now();
CREATE INDEX device_by_account ON device (account);

ALTER TABLE drive
    ADD COLUMN sealed  bytea NOT NULL DEFAULT '' CHECK (octet_length(sealed) <= 4096),
    ADD COLUMN deleted timestamptz;               -- its blocks are released, and it goes with the last of them
CREATE INDEX drive_by_account ON drive (account);
CREATE INDEX pack_by_drive ON pack (drive);

-- Sealed bytes of a drive's blocks, commits and roots. Its row is locked after all others of a transaction.
CREATE TABLE drive_usage (
    drive bigint PRIMARY KEY,
    bytes bigint NOT NULL DEFAULT 0
);
CREATE FUNCTION count_usage(in_drive bigint, taken bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO drive_usage AS u (drive, bytes) VALUES (in_drive, taken)
        ON CONFLICT (drive) DO UPDATE SET bytes = u.bytes + excluded.bytes;
$$;

CREATE FUNCTION count_places() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM count_usage(drive, sum(length) * TG_ARGV[0]::integer) FROM changed GROUP BY drive ORDER BY drive;
    RETURN NULL;
END $$;
CREATE TRIGGER place_added AFTER INSERT ON place REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_places('1');
CREATE TRIGGER place_removed AFTER DELETE ON place REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_places('-1');

CREATE FUNCTION count_commits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM count_usage(drive, sum(octet_length(encoded)) * TG_ARGV[0]::integer)
        FROM changed GROUP BY drive ORDER BY drive;
    RETURN NULL;
END $$;
CREATE TRIGGER commit_added AFTER INSERT ON commit REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_commits('1');
CREATE TRIGGER commit_removed AFTER DELETE ON commit REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_commits('-1');

CREATE FUNCTION count_root() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN PERFORM count_usage(OLD.drive, -octet_length(OLD.data)); END IF;
    IF TG_OP <> 'DELETE' THEN PERFORM count_usage(NEW.drive, octet_length(NEW.data)); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER root_changed AFTER INSERT OR UPDATE OR DELETE ON root
    FOR EACH ROW EXECUTE FUNCTION count_root();

-- After the triggers, which wait for who writes: nothing is left out between the two.
INSERT INTO drive_usage
    SELECT drive, sum(bytes) FROM (
        SELECT drive, length AS bytes FROM place
        UNION ALL SELECT drive, octet_length(encoded) FROM commit
        UNION ALL SELECT drive, octet_length(data) FROM root
    ) taken GROUP BY drive;
