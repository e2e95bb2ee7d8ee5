-- The collections whose records only their owner may read, as every catalogue that was in force said until now: a replica
-- that starts without its catalogue's source knows them too. A service's role of its own needs SELECT, INSERT and DELETE.
CREATE TABLE owner_only (
    collection text COLLATE "C" PRIMARY KEY
);

-- rollback: loses which collections are their owner's only where the catalogue does not say so any more; the code before
-- remembers them in each data dir alone, and finds none there that this code has written. Before it serves anyone, let
-- the index name all that this table lists, with "visibility": "owner".
DROP TABLE owner_only;
DELETE FROM schema_migrations WHERE version = 5;
