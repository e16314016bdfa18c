-- A drive that is moved from here to nodes is closed, as one that is being moved here. `departure`: 1, its mover copies the
-- rest; 2, it is open on its nodes.

ALTER TABLE drive
    ADD COLUMN departure smallint NOT NULL DEFAULT 0 CHECK (departure BETWEEN 0 AND 2),
    ADD CONSTRAINT departed_is_closed CHECK (importing OR departure = 0);
