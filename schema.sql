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
, hash -- of the columns above and of the row before: see `chains`. NULL: older than the chain
    BLOB) STRICT;
CREATE INDEX rule_changes_rule ON rule_changes (rule_id);

-- One row per decided connection. Columns are the fields of arbiter/records.py, where each is
-- described; `by` is called by_user here, because BY is a word of SQL.
CREATE TABLE decisions (
    id       INTEGER PRIMARY KEY,     -- `connection` in the protocol has the same
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
    note     TEXT NOT NULL,
    link     TEXT NOT NULL DEFAULT '', -- where it left; '' for nowhere, or a route that is no link
    -- what its rules were held against besides: `arbiter explain --record` asks them again
    names    TEXT NOT NULL DEFAULT '[]', -- JSON array: how its destination had been looked up
    sims     TEXT NOT NULL DEFAULT '[]', -- JSON array of the SIMs in use, by ICCID
    networks TEXT NOT NULL DEFAULT '[]', -- JSON array of network= values
    metered  INTEGER,                 -- of the default link: 1, 0, or NULL where nobody knew
    roaming  INTEGER,
    profile  TEXT NOT NULL DEFAULT '', -- the active one; '' for none
    -- what became of it, by conntrack: written while it lives. NULL where it was never seen there
    state    TEXT NOT NULL DEFAULT '', -- open | closed | unknown: nobody saw its end; ''
    replied  REAL,                    -- by when a packet had come back: 10 s late at most
    closed   REAL,                    -- when conntrack forgot it; only where state is closed
    out_bytes   INTEGER,              -- as in `usage`, so far
    in_bytes    INTEGER,
    out_packets INTEGER,
    in_packets  INTEGER
, hash -- of the columns from id to profile and of the row before: see `chains`. NULL: older
    BLOB) STRICT;
CREATE INDEX decisions_time ON decisions (time);
CREATE INDEX decisions_app ON decisions (app, time);
CREATE INDEX decisions_rule ON decisions (rule_id, time) WHERE rule_id IS NOT NULL; -- last used
-- one for each filter of `arbiter audit`: its rows stand in the order of time
CREATE INDEX decisions_user ON decisions (user, time);
CREATE INDEX decisions_daddr ON decisions (daddr, time);
CREATE INDEX decisions_names ON decisions (names, time);
CREATE INDEX decisions_dport ON decisions (dport, time);
CREATE INDEX decisions_proto ON decisions (proto, time);
CREATE INDEX decisions_link ON decisions (link, time);
CREATE INDEX decisions_decision ON decisions (decision, time);
CREATE INDEX decisions_reason ON decisions (reason, time);
CREATE INDEX decisions_by ON decisions (by_user, time);
CREATE INDEX decisions_open ON decisions (id) WHERE state = 'open';

-- Tamper evidence (arbiter/store/chain.py, docs/audit.md): each row of `decisions` and `rule_changes`
-- has the hash of itself and of the row before, so that nothing can be changed, taken out or put in
-- alone. A hash is the number of its format in one byte, and 16 bytes of SHA-256: who may choose a
-- row's texts could look for two rows with one hash, which takes 2^64 tries; to find another row
-- for a hash that is there takes 2^128. (The column stands where ALTER TABLE puts it: to have it, no
-- old row was written again.) One row per chain: where it begins and ends now, written with its rows.
CREATE TABLE chains (
    name  TEXT PRIMARY KEY CHECK (name IN ('decisions', 'rule_changes')), -- the table
    first INTEGER NOT NULL,           -- ids from this one on have a hash
    last  INTEGER NOT NULL,           -- the id of the newest row
    hash  BLOB,                       -- its hash; NULL before the first
    count INTEGER NOT NULL            -- rows that were ever chained
) STRICT, WITHOUT ROWID;
INSERT INTO chains VALUES ('decisions', 1, 0, NULL, 0), ('rule_changes', 1, 0, NULL, 0);

-- Where a chain had come to. `arbiter audit verify` compares, and the journal has each, too.
CREATE TABLE checkpoints (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    time  REAL NOT NULL,
    chain TEXT NOT NULL REFERENCES chains (name),
    last  INTEGER NOT NULL,           -- last, hash and count as in `chains` at that time
    hash  BLOB NOT NULL,
    count INTEGER NOT NULL,
    why   TEXT NOT NULL               -- start | stop | day | records | retention: up to this row
    -- the table may have been cleared since, from its beginning on
) STRICT;

-- One row per run of the daemon: what lies between two was decided by nobody here.
CREATE TABLE runs (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    started REAL NOT NULL,
    ended   REAL                      -- NULL while it runs, and where it was killed
) STRICT;

-- Records that are missing, as far as it is known.
CREATE TABLE gaps (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    time_from REAL NOT NULL,
    time_to   REAL NOT NULL,
    count     INTEGER,                -- how many; NULL where nobody can know
    why       TEXT NOT NULL
) STRICT;

-- What was used: one row per day, app, user, link and SIM, counted up while connections run. Bytes
-- are those of IP packets as the link carries them, headers included; see arbiter/usage.py.
--     SELECT link, sum(out_bytes + in_bytes) / 1e6 AS MB FROM usage
--     WHERE day >= date('now', 'localtime', 'start of month') GROUP BY link;
CREATE TABLE usage (
    day         TEXT NOT NULL CHECK (length(day) = 10), -- local date: 2026-07-31
    app         TEXT NOT NULL,        -- '' where nobody knew it any more
    user        TEXT NOT NULL,
    link        TEXT NOT NULL,        -- '' for a default route that is no link
    sim         TEXT NOT NULL,        -- ICCID; '' for none
    out_bytes   INTEGER NOT NULL CHECK (out_bytes >= 0),
    in_bytes    INTEGER NOT NULL CHECK (in_bytes >= 0),
    out_packets INTEGER NOT NULL CHECK (out_packets >= 0),
    in_packets  INTEGER NOT NULL CHECK (in_packets >= 0),
    connections INTEGER NOT NULL CHECK (connections >= 0), -- that began on this day
    PRIMARY KEY (day, app, user, link, sim)
) STRICT, WITHOUT ROWID;

-- The connections that run, and what of each is in `usage` already: written in the same transaction,
-- so that after a crash nothing is counted twice. Columns are those of Counted in arbiter/usage.py.
CREATE TABLE open_flows (
    proto       INTEGER NOT NULL CHECK (proto BETWEEN 0 AND 255),
    saddr       BLOB NOT NULL CHECK (length(saddr) IN (4, 16)), -- network order
    sport       INTEGER NOT NULL CHECK (sport BETWEEN 0 AND 65535),
    daddr       BLOB NOT NULL CHECK (length(daddr) = length(saddr)),
    dport       INTEGER NOT NULL CHECK (dport BETWEEN 0 AND 65535),
    id          INTEGER NOT NULL,     -- conntrack's
    mark        INTEGER NOT NULL,
    started     INTEGER NOT NULL,     -- nanoseconds since the epoch; 0 where conntrack does not say
    out_bytes   INTEGER NOT NULL CHECK (out_bytes >= 0), -- conntrack's counters, as they were
    in_bytes    INTEGER NOT NULL CHECK (in_bytes >= 0),
    out_packets INTEGER NOT NULL CHECK (out_packets >= 0),
    in_packets  INTEGER NOT NULL CHECK (in_packets >= 0),
    app         TEXT NOT NULL,
    user        TEXT NOT NULL,
    link        TEXT NOT NULL,
    sim         TEXT NOT NULL,
    PRIMARY KEY (saddr, daddr, sport, dport, proto, id)
) STRICT, WITHOUT ROWID;

-- Profiles (arbiter/profiles.py): names that rules may carry, and the networks that bring them.
CREATE TABLE profiles (
    name    TEXT PRIMARY KEY,
    created REAL NOT NULL,
    by_user TEXT NOT NULL,
    by_uid  INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE profile_networks (
    network TEXT PRIMARY KEY,         -- as network= of a rule's line says it
    profile TEXT NOT NULL REFERENCES profiles (name)
) STRICT, WITHOUT ROWID;

-- One row per change of the active profile: that of the last row is active.
CREATE TABLE profile_switches (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    time         REAL NOT NULL,
    profile_from TEXT NOT NULL,       -- '' for none
    profile_to   TEXT NOT NULL,
    why          TEXT NOT NULL,       -- on ssid:Home | chosen | undo of switch 7 | ...
    by_user      TEXT NOT NULL,       -- arbiter where the machine came onto a network
    by_uid       INTEGER,
    frontend     TEXT NOT NULL DEFAULT '',
    undoes       INTEGER REFERENCES profile_switches (id),
    place        TEXT                 -- of the last row: the profile of the bound network that the
    -- machine came onto last, '' for none, NULL where nobody has looked since a person chose
) STRICT;

CREATE INDEX decisions_went ON decisions (app, daddr, dport, proto, time);

-- The usual questions, as views. docs/audit.md has more, and what each reads.
CREATE VIEW top_apps AS -- which programs connect most, and what they carried
    SELECT app, connections, last, sent, received
    FROM (SELECT app, count(*) AS connections, max(time) AS last FROM decisions GROUP BY app)
    LEFT JOIN (
        SELECT app AS of_app, sum(out_bytes) AS sent, sum(in_bytes) AS received
        FROM usage GROUP BY app
    ) ON of_app = app
    ORDER BY connections DESC;
CREATE VIEW top_destinations AS -- where to, with the names it was looked up by last
    SELECT daddr, connections, last,
        (SELECT names FROM decisions AS newest WHERE newest.daddr = sums.daddr
         ORDER BY time DESC LIMIT 1) AS names
    FROM (SELECT daddr, count(*) AS connections, max(time) AS last FROM decisions GROUP BY daddr)
        AS sums
    ORDER BY connections DESC;
CREATE VIEW denied AS -- what was refused, and why
    SELECT app, user, daddr, dport, proto, reason, rule_id, by_user,
        count(*) AS connections, min(time) AS first, max(time) AS last
    FROM decisions WHERE decision = 'deny'
    GROUP BY app, user, daddr, dport, proto, reason, rule_id, by_user
    ORDER BY connections DESC;
CREATE VIEW unused_rules AS -- rules in force that have decided nothing
    SELECT id, line, created, by_user FROM rules
    WHERE retired IS NULL AND NOT EXISTS (
        SELECT 1 FROM decisions WHERE rule_id = rules.id AND layer = rules.layer);
CREATE VIEW usage_by_month AS -- bytes of each SIM and link; their price is in links.d
    SELECT substr(day, 1, 7) AS month, sim, link, sum(out_bytes) AS sent, sum(in_bytes) AS received,
        sum(connections) AS connections
    FROM usage GROUP BY month, sim, link ORDER BY month DESC, sent + received DESC;
CREATE VIEW new_destinations AS -- where programs went later than they were first seen
    SELECT app, daddr, dport, proto, first FROM (
        SELECT app, daddr, dport, proto, min(time) AS first FROM decisions
        GROUP BY app, daddr, dport, proto) AS went
    WHERE app <> '' AND first > (SELECT min(time) FROM decisions WHERE app = went.app)
    ORDER BY first DESC;
CREATE VIEW changed_executables AS -- apps that were more than one executable
    SELECT app, exe, min(time) AS first, max(time) AS last, count(*) AS connections
    FROM decisions WHERE exe <> '' AND app IN (
        SELECT app FROM decisions WHERE exe <> '' GROUP BY app HAVING min(exe) < max(exe))
    GROUP BY app, exe ORDER BY app, first;
CREATE VIEW answers AS -- who answered what, with what, and how long it took
    SELECT by_user, frontend, decision, count(*) AS answers, avg(waited) AS waited,
        max(time) AS last
    FROM decisions WHERE reason = 'answer' GROUP BY by_user, frontend, decision
    ORDER BY answers DESC;
