"""The steps from each schema version to the next. A step that was released never changes.

Their texts are those of schema.sql at that time, to the last comment inside a statement, so that an
upgraded database shows the same as a new one.
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
