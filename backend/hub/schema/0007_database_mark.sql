-- The number of the mark that nodes keep as well (docs/format/database_mark.md). One row.
CREATE TABLE database_mark (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    number  bigint NOT NULL DEFAULT 0,
    changed timestamptz NOT NULL DEFAULT now()
);
INSERT INTO database_mark DEFAULT VALUES;
