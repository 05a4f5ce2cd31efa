"""A few columns of many records: the same records in the same order as whole ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from auditscene import BEGAN, record, store_day

from arbiter.records import json_list
from arbiter.store import Store
from arbiter.store.filters import Filter, Wanted

COLUMNS = ("app", "by_user", "names", "metered", "rule_id")
DENIED = Filter("decision", ("deny",))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    others = record(-5.0), record(60.0, names=json_list(["x"]), by="eve"), record(60.0, "deny")
    with Store.open(store_day(tmp_path / "a.db", *others)) as opened:
        yield opened


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(),
        Wanted(since=BEGAN + 60),
        Wanted(until=BEGAN + 60),
        Wanted(BEGAN + 60, BEGAN + 61),
        Wanted(filters=(DENIED,)),
        Wanted(BEGAN, BEGAN + 200, (DENIED, Filter("app", test=lambda app: app != ""))),
        Wanted(since=BEGAN + 99999),
    ],
)
def test_columns_are_those_of_the_records(store: Store, wanted: Wanted) -> None:
    whole = [
        (kept.id, kept.record.time, *(getattr(kept.record, "by" if c == "by_user" else c)
                                      for c in COLUMNS))
        for kept in store.records.passing(wanted)
    ]  # fmt: skip
    assert list(store.records.values(wanted, COLUMNS)) == whole


def test_one_that_is_not_read_to_its_end_is_closed_quietly(store: Store) -> None:
    found = store.records.values(Wanted(), COLUMNS)
    assert next(found)[0] == 7
    found.close()
