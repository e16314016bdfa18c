-- A device is to have another token now and then.

ALTER TABLE device ADD COLUMN renewed timestamptz NOT NULL DEFAULT now();   -- the first use of its token
