-- The database of arbiter: /var/lib/arbiter/arbiter.db. This file is its one definition.
--
-- A new database is made by running this file in one transaction; an older one is brought here by
-- the steps in arbiter/store/migrate.py, after a backup copy. Change both together, and raise
-- VERSION there. In the file's header, `PRAGMA application_id` is 0x41726274 ("Arbt") and
-- `PRAGMA user_version` is that VERSION: with another application_id arbiter does not touch it.
--
-- Times are seconds since the epoch (REAL). Texts that a process chose are valid UTF-8: bytes that
-- were not are written as \udcXX, and a backslash that would begin such letters as \udc5c. Reading
-- never blocks the daemon (write-ahead log), so that any SQLite program may look:
--     SELECT datetime(time, 'unixepoch', 'localtime'), app, daddr, dport, decision, reason
--     FROM decisions ORDER BY time DESC LIMIT 20;

-- One row per remembered rule. Rows are retired: this is the history, too. What retention deletes of
-- those that have ended, it deletes with their changes (arbiter/store/endedrules.py).
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
CREATE INDEX rules_retired ON rules (retired) WHERE retired IS NOT NULL; -- what goes
CREATE INDEX rules_replaced ON rules (replaced_by) WHERE replaced_by IS NOT NULL;

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
    line     TEXT NOT NULL,           -- the rule as it was
    hash     BLOB                     -- of the columns above and of the row before: see `chains`.
    -- NULL where the row is older than the chain
) STRICT;
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
    count    INTEGER NOT NULL,        -- packets of it that came before the kernel had its verdict
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
    in_packets  INTEGER,
    hash        BLOB                  -- of id to profile but count, and of the row before: see `chains`
    -- NULL where the row is older than the chain
) STRICT;
CREATE INDEX decisions_time ON decisions (time);
CREATE INDEX decisions_app ON decisions (app, time);
CREATE INDEX decisions_rule ON decisions (rule_id, time) WHERE rule_id IS NOT NULL; -- last used
-- one for each filter of `arbiter audit`: its rows stand in the order of time
CREATE INDEX decisions_user ON decisions (user, time);
CREATE INDEX decisions_daddr ON decisions (daddr, time);
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
-- for a hash that is there takes 2^128. One row per chain: where it begins and ends now, written with
-- its rows.
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

-- Sums over all records that there ever were: what was decided (`outcomes`), and where to
-- (`destinations`), by day (`daily`) and for all time (`totals`). Triggers keep them true in the
-- transaction that writes or completes a record, so that nobody who writes can forget them. What
-- retention deletes of `decisions` stays in them: deleting has no trigger. The views `daily_sums`
-- and `all_sums` show them in words.

-- What was decided, for whom and why: each that ever was, once.
CREATE TABLE outcomes (
    id       INTEGER PRIMARY KEY,     -- columns are those of `decisions`
    app      TEXT NOT NULL,
    exe      TEXT NOT NULL,
    user     TEXT NOT NULL,
    uid      INTEGER,
    decision TEXT NOT NULL,
    reason   TEXT NOT NULL,
    rule_id  INTEGER,
    layer    INTEGER,
    by_user  TEXT NOT NULL,
    frontend TEXT NOT NULL,
    link     TEXT NOT NULL
) STRICT;
-- Not UNIQUE, which would take two NULLs for different: the trigger adds none that is there.
CREATE INDEX outcomes_same ON outcomes
    (app, exe, user, uid, decision, reason, rule_id, layer, by_user, frontend, link);
CREATE INDEX outcomes_rule ON outcomes (rule_id, layer) WHERE rule_id IS NOT NULL;
-- Where connections went, with the names that were known.
CREATE TABLE destinations (
    id    INTEGER PRIMARY KEY,        -- columns are those of `decisions`
    daddr TEXT NOT NULL,
    dport INTEGER NOT NULL,
    proto TEXT NOT NULL,
    names TEXT NOT NULL,
    UNIQUE (daddr, dport, proto, names)
) STRICT;
-- What came to each outcome and destination on a day.
CREATE TABLE daily (
    day         INTEGER NOT NULL,     -- when it began, in UTC: date(day, 'unixepoch')
    outcome     INTEGER NOT NULL REFERENCES outcomes (id),
    destination INTEGER NOT NULL REFERENCES destinations (id),
    connections INTEGER NOT NULL,     -- records
    packets     INTEGER NOT NULL,     -- that were held for them: their `count`
    first       REAL NOT NULL,        -- the first and the last of their times
    last        REAL NOT NULL,
    sent        INTEGER NOT NULL,     -- bytes, as far as they were counted
    received    INTEGER NOT NULL,
    waited      REAL NOT NULL,        -- seconds, all together
    PRIMARY KEY (outcome, destination, day) -- long spans are added up in this order
) STRICT, WITHOUT ROWID;
CREATE INDEX daily_day ON daily (day); -- short spans, and what goes
CREATE TABLE totals (                 -- the same without the day, also of days that are deleted
    outcome     INTEGER NOT NULL REFERENCES outcomes (id),
    destination INTEGER NOT NULL REFERENCES destinations (id),
    connections INTEGER NOT NULL,
    packets     INTEGER NOT NULL,
    first       REAL NOT NULL,
    last        REAL NOT NULL,
    sent        INTEGER NOT NULL,
    received    INTEGER NOT NULL,
    waited      REAL NOT NULL,
    PRIMARY KEY (outcome, destination)
) STRICT, WITHOUT ROWID;
CREATE INDEX totals_destination ON totals (destination);

CREATE TRIGGER decisions_added AFTER INSERT ON decisions BEGIN
    INSERT INTO outcomes
        (app, exe, user, uid, decision, reason, rule_id, layer, by_user, frontend, link)
    SELECT NEW.app, NEW.exe, NEW.user, NEW.uid, NEW.decision, NEW.reason, NEW.rule_id, NEW.layer,
        NEW.by_user, NEW.frontend, NEW.link
    WHERE NOT EXISTS (
        SELECT 1 FROM outcomes WHERE app = NEW.app AND exe = NEW.exe AND user = NEW.user
        AND uid IS NEW.uid
        AND decision = NEW.decision AND reason = NEW.reason AND rule_id IS NEW.rule_id
        AND layer IS NEW.layer AND by_user = NEW.by_user AND frontend = NEW.frontend
        AND link = NEW.link);
    INSERT OR IGNORE INTO destinations (daddr, dport, proto, names)
    VALUES (NEW.daddr, NEW.dport, NEW.proto, NEW.names);
    INSERT INTO daily
    SELECT CAST(max(0, min(NEW.time, 1e11)) / 86400 AS INTEGER) * 86400, outcomes.id,
        destinations.id, 1, max(NEW.count, 0), NEW.time, NEW.time,
        ifnull(max(NEW.out_bytes, 0), 0), ifnull(max(NEW.in_bytes, 0), 0), NEW.waited
    FROM outcomes, destinations
    WHERE app = NEW.app AND exe = NEW.exe AND user = NEW.user
        AND uid IS NEW.uid
        AND decision = NEW.decision AND reason = NEW.reason AND rule_id IS NEW.rule_id
        AND layer IS NEW.layer AND by_user = NEW.by_user AND frontend = NEW.frontend
        AND link = NEW.link
        AND daddr = NEW.daddr AND dport = NEW.dport AND proto = NEW.proto AND names = NEW.names
    ON CONFLICT DO UPDATE SET -- a sum that would be more than SQLite's largest number stays there
        connections = connections + 1,
        packets = min(packets, 9223372036854775807 - excluded.packets) + excluded.packets,
        first = min(first, excluded.first), last = max(last, excluded.last),
        sent = min(sent, 9223372036854775807 - excluded.sent) + excluded.sent,
        received = min(received, 9223372036854775807 - excluded.received) + excluded.received,
        waited = waited + excluded.waited;
END;
CREATE TRIGGER decisions_completed AFTER UPDATE OF out_bytes, in_bytes, count ON decisions
WHEN NEW.out_bytes IS NOT OLD.out_bytes OR NEW.in_bytes IS NOT OLD.in_bytes
    OR NEW.count <> OLD.count BEGIN
    UPDATE daily SET
        packets = min(max(packets - max(OLD.count, 0), 0),
            9223372036854775807 - max(NEW.count, 0)) + max(NEW.count, 0),
        sent = min(max(sent - ifnull(max(OLD.out_bytes, 0), 0), 0),
            9223372036854775807 - ifnull(max(NEW.out_bytes, 0), 0))
            + ifnull(max(NEW.out_bytes, 0), 0),
        received = min(max(received - ifnull(max(OLD.in_bytes, 0), 0), 0),
            9223372036854775807 - ifnull(max(NEW.in_bytes, 0), 0))
            + ifnull(max(NEW.in_bytes, 0), 0)
    WHERE day = CAST(max(0, min(OLD.time, 1e11)) / 86400 AS INTEGER) * 86400
        AND outcome = (
            SELECT id FROM outcomes WHERE app = OLD.app AND exe = OLD.exe AND user = OLD.user
            AND uid IS OLD.uid
            AND decision = OLD.decision AND reason = OLD.reason AND rule_id IS OLD.rule_id
            AND layer IS OLD.layer AND by_user = OLD.by_user AND frontend = OLD.frontend
            AND link = OLD.link)
        AND destination = (
            SELECT id FROM destinations WHERE daddr = OLD.daddr AND dport = OLD.dport
            AND proto = OLD.proto AND names = OLD.names);
END;
-- `totals` follow `daily`, but not where a day is deleted.
CREATE TRIGGER daily_added AFTER INSERT ON daily BEGIN
    INSERT INTO totals VALUES (NEW.outcome, NEW.destination, NEW.connections, NEW.packets,
        NEW.first, NEW.last, NEW.sent, NEW.received, NEW.waited)
    ON CONFLICT DO UPDATE SET
        connections = connections + excluded.connections,
        packets = min(packets, 9223372036854775807 - excluded.packets) + excluded.packets,
        first = min(first, excluded.first), last = max(last, excluded.last),
        sent = min(sent, 9223372036854775807 - excluded.sent) + excluded.sent,
        received = min(received, 9223372036854775807 - excluded.received) + excluded.received,
        waited = waited + excluded.waited;
END;
CREATE TRIGGER daily_grown AFTER UPDATE ON daily BEGIN
    UPDATE totals SET
        connections = connections + NEW.connections - OLD.connections,
        packets = min(max(packets - OLD.packets, 0), 9223372036854775807 - NEW.packets)
            + NEW.packets,
        first = min(first, NEW.first), last = max(last, NEW.last),
        sent = min(max(sent - OLD.sent, 0), 9223372036854775807 - NEW.sent) + NEW.sent,
        received = min(max(received - OLD.received, 0), 9223372036854775807 - NEW.received)
            + NEW.received,
        waited = waited - OLD.waited + NEW.waited
    WHERE outcome = NEW.outcome AND destination = NEW.destination;
END;

-- What retention deleted, so that nobody takes it for what never was.
CREATE TABLE pruned (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    time   REAL NOT NULL,             -- when it was deleted
    what   TEXT NOT NULL,             -- of which table; usage_days: added up into months
    before REAL NOT NULL,             -- those of before then, but for what is still needed
    count  INTEGER NOT NULL,          -- how many. Old rows of this table are added up, too
    why    TEXT NOT NULL              -- age | size | asked
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
-- are those of IP packets as the link carries them, headers included; see arbiter/usage.py. Of old
-- months there is one row instead of those of its days: that of its first.
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
-- Which network brings which profile.
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
CREATE INDEX profile_switches_undoes ON profile_switches (undoes) WHERE undoes IS NOT NULL;

-- The usual questions, as views. They read the sums, but for bytes and rules. docs/audit.md has more.
CREATE VIEW all_sums AS -- `totals` in words
    SELECT app, exe, user, uid, daddr, dport, proto, names, decision, reason, rule_id, layer,
        by_user, frontend, link, connections, packets, first, last, sent, received, waited
    FROM totals JOIN outcomes ON outcomes.id = outcome
    JOIN destinations ON destinations.id = destination;
CREATE VIEW daily_sums AS -- `daily` in words; days are those of UTC
    SELECT date(day, 'unixepoch') AS day, app, exe, user, uid, daddr, dport, proto, names,
        decision, reason, rule_id, layer, by_user, frontend, link, connections, packets, first,
        last, sent, received, waited
    FROM daily JOIN outcomes ON outcomes.id = outcome
    JOIN destinations ON destinations.id = destination;
CREATE VIEW top_apps AS -- which programs connect most, and what they carried
    SELECT app, connections, last, sent, received
    FROM (
        SELECT app, sum(some) AS connections, max(latest) AS last
        FROM (SELECT outcome, sum(connections) AS some, max(last) AS latest
              FROM totals GROUP BY outcome)
        JOIN outcomes ON id = outcome GROUP BY app)
    LEFT JOIN (
        SELECT app AS of_app, sum(out_bytes) AS sent, sum(in_bytes) AS received
        FROM usage GROUP BY app
    ) ON of_app = app
    ORDER BY connections DESC;
CREATE VIEW top_destinations AS -- where to, with the names it was looked up by last
    SELECT daddr, sum(some) AS connections, max(latest) AS last, names -- of the row with the max
    FROM (SELECT destination, sum(connections) AS some, max(last) AS latest
          FROM totals GROUP BY destination)
    JOIN destinations ON id = destination GROUP BY daddr
    ORDER BY connections DESC;
CREATE VIEW denied AS -- what was refused, and why
    SELECT app, user, daddr, dport, proto, reason, rule_id, by_user,
        sum(connections) AS connections, min(first) AS first, max(last) AS last
    FROM all_sums WHERE decision = 'deny'
    GROUP BY app, user, daddr, dport, proto, reason, rule_id, by_user
    ORDER BY connections DESC;
CREATE VIEW unused_rules AS -- rules in force that have decided nothing
    SELECT id, line, created, by_user FROM rules
    WHERE retired IS NULL AND NOT EXISTS (
        SELECT 1 FROM outcomes WHERE rule_id = rules.id AND layer = rules.layer);
CREATE VIEW usage_by_month AS -- bytes of each SIM and link; their price is in links.d
    SELECT substr(day, 1, 7) AS month, sim, link, sum(out_bytes) AS sent, sum(in_bytes) AS received,
        sum(connections) AS connections
    FROM usage GROUP BY month, sim, link ORDER BY month DESC, sent + received DESC;
CREATE VIEW new_destinations AS -- where programs went later than they were first seen
    WITH apps AS MATERIALIZED ( -- numbers for texts: these are quicker to group by
        SELECT outcomes.id, number
        FROM (SELECT app, min(id) AS number FROM outcomes WHERE app <> '' GROUP BY app)
        CROSS JOIN outcomes USING (app)),
    places AS MATERIALIZED (
        SELECT destinations.id, number
        FROM (SELECT daddr, dport, proto, min(id) AS number FROM destinations
              GROUP BY daddr, dport, proto)
        CROSS JOIN destinations USING (daddr, dport, proto)),
    went AS MATERIALIZED (
        SELECT apps.number AS program, places.number AS place, min(first) AS first
        FROM totals CROSS JOIN apps ON apps.id = outcome
        CROSS JOIN places ON places.id = destination
        GROUP BY program, place)
    SELECT app, daddr, dport, proto, first FROM went
    JOIN (SELECT program AS of, min(first) AS seen FROM went GROUP BY program) ON of = program
    JOIN outcomes ON outcomes.id = program JOIN destinations ON destinations.id = place
    WHERE first > seen ORDER BY first DESC;
CREATE VIEW changed_executables AS -- apps that were more than one executable
    SELECT app, exe, min(earliest) AS first, max(latest) AS last, sum(some) AS connections
    FROM (SELECT outcome, sum(connections) AS some, min(first) AS earliest, max(last) AS latest
          FROM totals GROUP BY outcome)
    JOIN outcomes ON id = outcome
    WHERE exe <> '' AND app IN (
        SELECT app FROM outcomes WHERE exe <> '' GROUP BY app HAVING min(exe) < max(exe))
    GROUP BY app, exe ORDER BY app, first;
CREATE VIEW answers AS -- who answered what, with what, and how long it took
    SELECT by_user, frontend, decision, sum(connections) AS answers,
        sum(waited) / sum(connections) AS waited, max(last) AS last
    FROM totals JOIN outcomes ON id = outcome
    WHERE reason = 'answer' GROUP BY by_user, frontend, decision
    ORDER BY answers DESC;
