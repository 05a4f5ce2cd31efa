"""The steps from each schema version to the next. A step that was released never changes.

Their texts are those of schema.sql at that time, so that an upgraded database shows the same as a
new one, but for comments and layout where a column was added.
"""

from __future__ import annotations

TO_2 = """
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
"""
"""Bytes per app, link and SIM."""

TO_3 = """
ALTER TABLE decisions RENAME TO decisions_2;
DROP INDEX decisions_time;
DROP INDEX decisions_app;
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
    note     TEXT NOT NULL,
    link     TEXT NOT NULL DEFAULT '', -- where it left; '' for nowhere, or a route that is no link
    -- what its rules were held against besides: `arbiter explain --record` asks them again
    names    TEXT NOT NULL DEFAULT '[]', -- JSON array: how its destination had been looked up
    sims     TEXT NOT NULL DEFAULT '[]', -- JSON array of the SIMs in use, by ICCID
    networks TEXT NOT NULL DEFAULT '[]', -- JSON array of network= values
    metered  INTEGER,                 -- of the default link: 1, 0, or NULL where nobody knew
    roaming  INTEGER
) STRICT;
INSERT INTO decisions (
    id, time, hook, proto, saddr, sport, daddr, dport, outdev, length, uid, user, app,
    app_kind, pid, start, exe, argv, parents, no_owner, decision, reason, rule_id, layer,
    by_user, frontend, waited, count, note
) SELECT
    id, time, hook, proto, saddr, sport, daddr, dport, outdev, length, uid, user, app,
    app_kind, pid, start, exe, argv, parents, no_owner, decision, reason, rule_id, layer,
    by_user, frontend, waited, count, note
FROM decisions_2;
DROP TABLE decisions_2;
CREATE INDEX decisions_time ON decisions (time);
CREATE INDEX decisions_app ON decisions (app, time);
CREATE INDEX decisions_rule ON decisions (rule_id, time) WHERE rule_id IS NOT NULL; -- last used
"""
"""What the rules were held against, and the link, in each record. Made anew, for its comments."""

TO_4 = """
ALTER TABLE decisions ADD COLUMN profile TEXT NOT NULL DEFAULT '';
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
"""
"""Profiles, their networks and switches; the active one in each record."""

TO_5 = """
CREATE INDEX decisions_user ON decisions (user, time);
CREATE INDEX decisions_daddr ON decisions (daddr, time);
CREATE INDEX decisions_names ON decisions (names, time);
CREATE INDEX decisions_dport ON decisions (dport, time);
CREATE INDEX decisions_proto ON decisions (proto, time);
CREATE INDEX decisions_link ON decisions (link, time);
CREATE INDEX decisions_decision ON decisions (decision, time);
CREATE INDEX decisions_reason ON decisions (reason, time);
CREATE INDEX decisions_by ON decisions (by_user, time);
"""
"""An index for each filter of `arbiter audit`."""

TO_6 = """
ALTER TABLE decisions RENAME TO decisions_5;
DROP INDEX decisions_time;
DROP INDEX decisions_app;
DROP INDEX decisions_rule;
DROP INDEX decisions_user;
DROP INDEX decisions_daddr;
DROP INDEX decisions_names;
DROP INDEX decisions_dport;
DROP INDEX decisions_proto;
DROP INDEX decisions_link;
DROP INDEX decisions_decision;
DROP INDEX decisions_reason;
DROP INDEX decisions_by;
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
) STRICT;
INSERT INTO decisions (
    id, time, hook, proto, saddr, sport, daddr, dport, outdev, length, uid, user, app,
    app_kind, pid, start, exe, argv, parents, no_owner, decision, reason, rule_id, layer,
    by_user, frontend, waited, count, note, link, names, sims, networks, metered, roaming, profile
) SELECT
    id, time, hook, proto, saddr, sport, daddr, dport, outdev, length, uid, user, app,
    app_kind, pid, start, exe, argv, parents, no_owner, decision, reason, rule_id, layer,
    by_user, frontend, waited, count, note, link, names, sims, networks, metered, roaming, profile
FROM decisions_5;
DROP TABLE decisions_5;
CREATE INDEX decisions_time ON decisions (time);
CREATE INDEX decisions_app ON decisions (app, time);
CREATE INDEX decisions_rule ON decisions (rule_id, time) WHERE rule_id IS NOT NULL;
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
CREATE TABLE runs (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    started REAL NOT NULL,
    ended   REAL                      -- NULL while it runs, and where it was killed
) STRICT;
CREATE TABLE gaps (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    time_from REAL NOT NULL,
    time_to   REAL NOT NULL,
    count     INTEGER,                -- how many; NULL where nobody can know
    why       TEXT NOT NULL
) STRICT;
"""
"""What became of each connection; runs and gaps. Made anew, for its comments."""

TO_7 = """
CREATE INDEX decisions_went ON decisions (app, daddr, dport, proto, time);
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
"""
"""Views of the usual questions."""

TO_8 = """
ALTER TABLE rule_changes ADD COLUMN hash BLOB;
ALTER TABLE decisions ADD COLUMN hash BLOB;
CREATE TABLE chains (
    name  TEXT PRIMARY KEY CHECK (name IN ('decisions', 'rule_changes')), -- the table
    first INTEGER NOT NULL,           -- ids from this one on have a hash
    last  INTEGER NOT NULL,           -- the id of the newest row
    hash  BLOB,                       -- its hash; NULL before the first
    count INTEGER NOT NULL            -- rows that were ever chained
) STRICT, WITHOUT ROWID;
INSERT INTO chains SELECT 'decisions', max(id) + 1, max(id), NULL, 0
    FROM (SELECT 0 AS id UNION ALL SELECT max(id) FROM decisions);
INSERT INTO chains SELECT 'rule_changes', max(id) + 1, max(id), NULL, 0
    FROM (SELECT 0 AS id UNION ALL SELECT seq FROM sqlite_sequence WHERE name = 'rule_changes');
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
"""
"""A hash chain over records and changes of rules: old rows stay as they are, without a hash."""

TO_10 = """
CREATE INDEX rules_retired ON rules (retired) WHERE retired IS NOT NULL; -- what goes
CREATE INDEX rules_replaced ON rules (replaced_by) WHERE replaced_by IS NOT NULL;
CREATE INDEX profile_switches_undoes ON profile_switches (undoes) WHERE undoes IS NOT NULL;
DROP TRIGGER decisions_completed;
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
"""
"""What SQLite and retention look for where ended rules and old switches of profiles are deleted. A
record may come to stand for more packets after it was written, and so do its sums."""
