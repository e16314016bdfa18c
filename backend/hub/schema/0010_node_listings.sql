-- How far the packs of a node are listed, by all processes together: the listing goes on after that key, at that time.
CREATE TABLE node_listing (
    node  text PRIMARY KEY,
    after text NOT NULL,                          -- empty: from the first key on
    due   timestamptz NOT NULL
);
