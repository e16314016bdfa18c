-- A commit that was under way when its drive was deleted is not taken: its blocks would be needed for ever. Who tries again
-- finds no drive.
CREATE FUNCTION refuse_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the drive was deleted' USING ERRCODE = 'serialization_failure';
END $$;
CREATE TRIGGER deleted_drive_takes_no_commit BEFORE UPDATE OF head ON drive
    FOR EACH ROW WHEN (OLD.deleted IS NOT NULL) EXECUTE FUNCTION refuse_commit();
