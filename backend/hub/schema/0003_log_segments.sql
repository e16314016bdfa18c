-- Old commits lie in packs: a row keeps number and hash, and says where. What a drive's log takes does not change by that.

ALTER TABLE commit
    ALTER COLUMN encoded DROP NOT NULL,
    ADD COLUMN pack     bytea REFERENCES pack,
    ADD COLUMN position integer,
    ADD COLUMN length   integer,
    ADD CONSTRAINT commit_is_in_one_place CHECK (
        (encoded IS NULL) = (pack IS NOT NULL) AND (pack IS NULL) = (position IS NULL) AND (pack IS NULL) = (length IS NULL)
    );
CREATE INDEX commit_by_pack ON commit (pack) WHERE pack IS NOT NULL;

ALTER TABLE drive ADD COLUMN segmented bigint NOT NULL DEFAULT 0;   -- no later commit lies in a pack

CREATE OR REPLACE FUNCTION count_commits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM count_usage(drive, sum(coalesce(length, octet_length(encoded))) * TG_ARGV[0]::integer)
        FROM changed GROUP BY drive ORDER BY drive;
    RETURN NULL;
END $$;
