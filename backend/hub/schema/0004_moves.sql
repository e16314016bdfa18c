-- A drive that is being moved here has its commits from one mover, which shows the ticket; those of devices are refused
-- until all is here. The ticket stays when the drive is opened: its mover may ask for that again.

ALTER TABLE drive
    ADD COLUMN importing boolean NOT NULL DEFAULT false,
    ADD COLUMN ticket    bytea CHECK (octet_length(ticket) = 16),
    ADD CONSTRAINT mover_has_ticket CHECK (ticket IS NOT NULL OR NOT importing);

CREATE OR REPLACE FUNCTION append_commit(
    in_drive bigint, expected bigint, expected_hash bytea, in_hash bytea, in_encoded bytea,
    in_added bytea[], in_dropped bytea[],
    OUT outcome text, OUT head bigint, OUT head_hash bytea, OUT missing bytea[]
) LANGUAGE plpgsql AS $$
DECLARE is_importing boolean;
BEGIN
    SELECT d.head, d.head_hash, d.importing INTO head, head_hash, is_importing
        FROM drive d WHERE d.id = in_drive FOR NO KEY UPDATE;
    IF NOT FOUND THEN outcome := 'gone'; RETURN; END IF;
    IF is_importing THEN outcome := 'importing'; RETURN; END IF;
    IF head_hash = in_hash THEN outcome := 'head'; RETURN; END IF;
    IF head <> expected OR head_hash <> expected_hash THEN outcome := 'moved'; RETURN; END IF;
    PERFORM 1 FROM block b WHERE b.drive = in_drive AND b.id = ANY (in_added || in_dropped)
        ORDER BY b.id FOR UPDATE;
    SELECT array_agg(a) INTO missing FROM unnest(in_added) a
        WHERE NOT EXISTS (SELECT 1 FROM block b WHERE b.drive = in_drive AND b.id = a);
    IF missing IS NOT NULL THEN outcome := 'missing'; RETURN; END IF;
    PERFORM take_commit(in_drive, head, in_hash, in_encoded, in_added, in_dropped);
    head := head + 1;
    head_hash := in_hash;
    outcome := 'appended';
END $$;

-- The commit after `head` of a drive whose row, and whose blocks, are locked.
CREATE FUNCTION take_commit(
    in_drive bigint, head bigint, in_hash bytea, in_encoded bytea, in_added bytea[], in_dropped bytea[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE block b SET state = 2, changed = now()
        WHERE b.drive = in_drive AND b.id = ANY (in_dropped) AND b.state <> 2;
    UPDATE block b SET state = 1, changed = now()
        WHERE b.drive = in_drive AND b.id = ANY (in_added) AND b.state <> 1;
    INSERT INTO commit (drive, number, hash, encoded)
        VALUES (in_drive, take_commit.head + 1, in_hash, in_encoded);
    UPDATE drive d SET head = take_commit.head + 1, head_hash = in_hash WHERE d.id = in_drive;
END $$;

-- As `append_commit`, of a drive that is being moved here: blocks of old commits may be gone.
CREATE FUNCTION import_commit(
    in_drive bigint, in_ticket bytea, expected bigint, expected_hash bytea, in_hash bytea, in_encoded bytea,
    in_added bytea[], in_dropped bytea[],
    OUT outcome text, OUT head bigint, OUT head_hash bytea
) LANGUAGE plpgsql AS $$
DECLARE is_ours boolean;
BEGIN
    SELECT d.head, d.head_hash, d.importing AND d.ticket = in_ticket INTO head, head_hash, is_ours
        FROM drive d WHERE d.id = in_drive FOR NO KEY UPDATE;
    IF NOT FOUND THEN outcome := 'gone'; RETURN; END IF;
    IF NOT is_ours THEN outcome := 'closed'; RETURN; END IF;
    IF head_hash = in_hash THEN outcome := 'head'; RETURN; END IF;
    IF head <> expected OR head_hash <> expected_hash THEN outcome := 'moved'; RETURN; END IF;
    PERFORM 1 FROM block b WHERE b.drive = in_drive AND b.id = ANY (in_added || in_dropped)
        ORDER BY b.id FOR UPDATE;
    PERFORM take_commit(in_drive, head, in_hash, in_encoded, in_added, in_dropped);
    head := head + 1;
    head_hash := in_hash;
    outcome := 'appended';
END $$;
