-- A second note of when a device was heard of, by the clock of the hub's process: `seen` is by that of the
-- database. A token ends when both say so.

ALTER TABLE device ADD COLUMN heard timestamptz NOT NULL DEFAULT now();
UPDATE device SET heard = seen;
