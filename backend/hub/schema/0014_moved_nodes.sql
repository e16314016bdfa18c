-- The nodes that a drive is moved from, or to. A drive may have been on several, and which of them it is on is nothing that
-- those of an earlier move may say. Nothing: no mover has said it.

ALTER TABLE drive
    ADD COLUMN nodes bytea CHECK (octet_length(nodes) = 16);
