-- The database of arbiter: /var/lib/arbiter/arbiter.db. This file is its one definition.
--
-- A new database is made by running this file in one transaction; an older one is brought here by
-- the steps in arbiter/store/migrate.py, after a backup copy. Change both together, and raise
-- VERSION there. In the file's header, `PRAGMA application_id` is 0x41726274 ("Arbt") and
-- `PRAGMA user_version` is that VERSION: with another application_id arbiter does not touch it.
--
-- Times are seconds since the epoch (REAL). Texts that a process chose are valid UTF-8: bytes that
-- were not are written as \udcXX (PEP 383 surrogates, escaped). Reading never blocks the daemon
-- (write-ahead log), so that any SQLite program may look:
--     SELECT datetime(time, 'unixepoch', 'localtime'), app, daddr, dport, decision, reason
--     FROM decisions ORDER BY time DESC LIMIT 20;

-- One row per remembered rule. Rows are retired, never deleted: this is the history, too.
CREATE TABLE rules (
    id             INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice: records name rules by it
    line           TEXT NOT NULL,     -- the rule, canonical one-line form: the only source of truth
    layer          INTEGER NOT NULL CHECK (layer BETWEEN 1 AND 3), -- 1 admin, 2 remembered, 3 shipped
    -- taken out of `line`, for readers in SQL and for the index below
    conditions     TEXT NOT NULL,     -- the line without decision and lifetime
    decision       TEXT NOT NULL,     -- allow | deny | route via=LINK,...
    app            TEXT NOT NULL,     -- '' where the rule is for every app
    scope_user     TEXT NOT NULL,     -- whose processes; '' where it is for all
    lifetime       TEXT NOT NULL CHECK (lifetime IN ('process', 'span', 'session', 'boot', 'forever')),
    -- provenance
    created        REAL NOT NULL,
    by_user        TEXT NOT NULL,     -- who decided
    by_uid         INTEGER,           -- NULL where it was not a person on this machine
    frontend       TEXT NOT NULL DEFAULT '', -- terminal, tui, cli, file:/etc/...
    -- until when; each is set only where the lifetime needs it
    expires        REAL CHECK (lifetime <> 'span' OR expires IS NOT NULL),
    pid            INTEGER CHECK ((lifetime = 'process') = (pid IS NOT NULL)),
    start          INTEGER CHECK ((pid IS NULL) = (start IS NULL)), -- clock ticks since boot, proc(5)
    boot           TEXT NOT NULL DEFAULT '', -- /proc/sys/kernel/random/boot_id
    session        TEXT NOT NULL DEFAULT '', -- id of the daemon's run
    -- the end
    retired        REAL,              -- NULL while it is in the rules
    retired_by     TEXT,
    retired_reason TEXT,              -- replaced | removed | expired | exited | boot | session | ...
    replaced_by    INTEGER REFERENCES rules (id),
    CHECK ((retired IS NULL) = (retired_reason IS NULL))
) STRICT;

-- The same conditions twice would be two answers to one question. Rules for one process each may
-- share theirs.
CREATE UNIQUE INDEX rules_once ON rules (layer, conditions, ifnull(pid, 0), ifnull(start, 0))
    WHERE retired IS NULL;
CREATE INDEX rules_app ON rules (app);

-- One row per change of a rule, in order: for audit, for undo, and for the daemon to see what a
-- command has changed (ids grow).
CREATE TABLE rule_changes (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    time     REAL NOT NULL,
    rule_id  INTEGER NOT NULL REFERENCES rules (id),
    change   TEXT NOT NULL CHECK (change IN ('added', 'retired')),
    reason   TEXT NOT NULL,           -- remembered; or as in rules.retired_reason
    by_user  TEXT NOT NULL,
    by_uid   INTEGER,
    frontend TEXT NOT NULL DEFAULT '',
    line     TEXT NOT NULL            -- the rule as it was
) STRICT;
CREATE INDEX rule_changes_rule ON rule_changes (rule_id);

-- One row per decided connection. Columns are the fields of arbiter/records.py, where each is
-- described; `by` is called by_user here, because BY is a word of SQL.
CREATE TABLE decisions (
    id       INTEGER PRIMARY KEY,
    time     REAL NOT NULL,
    hook     TEXT NOT NULL,
    proto    TEXT NOT NULL,
    saddr    TEXT NOT NULL,
    sport    INTEGER NOT NULL,
    daddr    TEXT NOT NULL,
    dport    INTEGER NOT NULL,
    outdev   INTEGER NOT NULL,
    length   INTEGER NOT NULL,
    uid      INTEGER,
    user     TEXT NOT NULL,
    app      TEXT NOT NULL,
    app_kind TEXT NOT NULL,
    pid      INTEGER,
    start    INTEGER,
    exe      TEXT NOT NULL,
    argv     TEXT NOT NULL,           -- JSON array of strings
    parents  TEXT NOT NULL,           -- JSON array of app ids, nearest first
    no_owner TEXT NOT NULL,
    decision TEXT NOT NULL,
    reason   TEXT NOT NULL,
    rule_id  INTEGER,                 -- rules.id for layer 2; other layers number their own
    layer    INTEGER,
    by_user  TEXT NOT NULL,
    frontend TEXT NOT NULL,
    waited   REAL NOT NULL,           -- seconds
    count    INTEGER NOT NULL,
    note     TEXT NOT NULL
) STRICT;
CREATE INDEX decisions_time ON decisions (time);
CREATE INDEX decisions_app ON decisions (app, time);
