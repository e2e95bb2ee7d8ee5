-- The collections whose records only their owner may read, as every catalogue that was in force said until now.
CREATE TABLE owner_only (
    collection TEXT PRIMARY KEY
) WITHOUT ROWID;
