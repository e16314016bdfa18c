-- A round of housekeeping looks at the packs that are due, and not at all others.
DROP INDEX pack_shrunk;
CREATE INDEX pack_shrunk ON pack (drive, id) WHERE shrunk AND emptied IS NULL;
CREATE INDEX pack_shrunk_by_id ON pack (id) WHERE shrunk;
CREATE INDEX pack_lacking ON pack (id) WHERE missing <> 0;
DROP INDEX pack_emptied;
CREATE INDEX pack_emptied ON pack (emptied) INCLUDE (size) WHERE emptied IS NOT NULL;
