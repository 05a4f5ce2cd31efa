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
