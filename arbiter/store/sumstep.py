"""The step that brings the sums: made from the records that there are. Texts as in steps.py."""

from __future__ import annotations

TO_9 = """
DROP VIEW top_apps;
DROP VIEW top_destinations;
DROP VIEW denied;
DROP VIEW unused_rules;
DROP VIEW new_destinations;
DROP VIEW changed_executables;
DROP VIEW answers;
DROP VIEW usage_by_month;
DROP INDEX decisions_went;
DROP INDEX decisions_names;
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
CREATE INDEX outcomes_same ON outcomes
    (app, exe, user, uid, decision, reason, rule_id, layer, by_user, frontend, link);
CREATE INDEX outcomes_rule ON outcomes (rule_id, layer) WHERE rule_id IS NOT NULL;
CREATE TABLE destinations (
    id    INTEGER PRIMARY KEY,        -- columns are those of `decisions`
    daddr TEXT NOT NULL,
    dport INTEGER NOT NULL,
    proto TEXT NOT NULL,
    names TEXT NOT NULL,
    UNIQUE (daddr, dport, proto, names)
) STRICT;
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
INSERT INTO outcomes
    (app, exe, user, uid, decision, reason, rule_id, layer, by_user, frontend, link)
SELECT DISTINCT app, exe, user, uid, decision, reason, rule_id, layer, by_user, frontend, link
FROM decisions NOT INDEXED;
INSERT INTO destinations (daddr, dport, proto, names)
SELECT DISTINCT daddr, dport, proto, names FROM decisions NOT INDEXED;
INSERT INTO daily
SELECT CAST(max(0, min(time, 1e11)) / 86400 AS INTEGER) * 86400 AS began, outcomes.id,
    destinations.id, count(*), CAST(total(max(count, 0)) AS INTEGER), min(time), max(time),
    CAST(total(max(out_bytes, 0)) AS INTEGER), CAST(total(max(in_bytes, 0)) AS INTEGER),
    total(waited)
FROM decisions AS one NOT INDEXED
CROSS JOIN outcomes ON outcomes.app = one.app AND outcomes.exe = one.exe
    AND outcomes.user = one.user AND outcomes.uid IS one.uid AND outcomes.decision = one.decision
    AND outcomes.reason = one.reason AND outcomes.rule_id IS one.rule_id
    AND outcomes.layer IS one.layer AND outcomes.by_user = one.by_user
    AND outcomes.frontend = one.frontend AND outcomes.link = one.link
CROSS JOIN destinations ON destinations.daddr = one.daddr AND destinations.dport = one.dport
    AND destinations.proto = one.proto AND destinations.names = one.names
GROUP BY outcomes.id, destinations.id, began;
INSERT INTO totals
SELECT outcome, destination, sum(connections), CAST(total(packets) AS INTEGER), min(first),
    max(last), CAST(total(sent) AS INTEGER), CAST(total(received) AS INTEGER), total(waited)
FROM daily GROUP BY outcome, destination;
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
CREATE TRIGGER decisions_completed AFTER UPDATE OF out_bytes, in_bytes ON decisions
WHEN NEW.out_bytes IS NOT OLD.out_bytes OR NEW.in_bytes IS NOT OLD.in_bytes BEGIN
    UPDATE daily SET
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
CREATE TABLE pruned (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    time   REAL NOT NULL,             -- when it was deleted
    what   TEXT NOT NULL,             -- decisions | daily | usage | runs | gaps
    before REAL NOT NULL,             -- those of before then, but for what is still needed
    count  INTEGER NOT NULL,          -- how many
    why    TEXT NOT NULL              -- age | size | asked
) STRICT;
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
"""
"""Sums by day and for all time; what was pruned; views that read them."""
