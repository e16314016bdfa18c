-- Packs of which much is not needed any more are rewritten. `shrunk`: something that was in the pack went, or was never
-- read from it, since it was looked at last. Packs of processes that do not know of it are to be looked at.
ALTER TABLE pack
    ADD COLUMN shrunk  boolean NOT NULL DEFAULT true,
    ADD COLUMN emptied timestamptz;               -- since when its blocks are read from another pack
CREATE INDEX pack_shrunk ON pack (drive, id) WHERE shrunk;
CREATE INDEX pack_emptied ON pack (emptied) WHERE emptied IS NOT NULL;

-- Who looks at a pack holds its row: a pack that shrinks meanwhile is marked after that, never before.
CREATE FUNCTION mark_shrunk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM pack p WHERE p.id IN (SELECT pack FROM changed) ORDER BY p.id FOR NO KEY UPDATE;
    UPDATE pack p SET shrunk = true WHERE p.id IN (SELECT pack FROM changed) AND NOT p.shrunk;
    RETURN NULL;
END $$;
CREATE TRIGGER pack_lost_places AFTER DELETE ON place REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION mark_shrunk();
CREATE TRIGGER pack_lost_commits AFTER DELETE ON commit REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION mark_shrunk();

-- A pack that nodes have and no transaction entered. From `ended` on it is deleted, and nobody enters it any more.
CREATE TABLE stray_pack (
    id    bytea PRIMARY KEY CHECK (octet_length(id) = 16),
    seen  timestamptz NOT NULL DEFAULT now(),     -- first
    ended timestamptz
);

-- Who enters a pack, or ends a stray one, holds this until the transaction ends: one of the two sees what the other did.
CREATE FUNCTION pack_lock(id bytea) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT ('x' || encode(substr(id, 1, 8), 'hex'))::bit(64)::bigint
$$;
CREATE FUNCTION refuse_ended_pack() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(pack_lock(NEW.id));
    IF EXISTS (SELECT 1 FROM stray_pack s WHERE s.id = NEW.id AND s.ended IS NOT NULL) THEN
        RAISE EXCEPTION 'the pack came too late' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER ended_pack_is_not_entered BEFORE INSERT ON pack
    FOR EACH ROW EXECUTE FUNCTION refuse_ended_pack();
