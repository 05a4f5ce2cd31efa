"""The web console's pure parts: who may come in, what pages are told, what they may ask for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.web import requests
from prompts.web.board import Board, Reader
from prompts.web.gate import HEADERS, KEY_HEADER, Gate
from prompts.web.requests import RequestError

# --- the gate -------------------------------------------------------------------------------


def test_only_loopbacks_own_names_with_the_port_are_hosts() -> None:
    gate = Gate(4711)
    for good in ("127.0.0.1:4711", "[::1]:4711", "localhost:4711"):
        assert gate.host_fault({"host": good}) == ""
    for bad in ("evil.example:4711", "127.0.0.1", "127.0.0.1:80", "", "localhost.:4711", "[::1]"):
        assert "127.0.0.1:4711" in gate.host_fault({"host": bad})
    assert gate.host_fault({}) != ""


def test_an_origin_is_the_host_and_nothing_else() -> None:
    gate = Gate(4711)
    host = {"host": "127.0.0.1:4711"}
    assert gate.origin_fault(host | {"origin": "http://127.0.0.1:4711"}) == ""
    for bad in ("null", "http://127.0.0.1:4712", "https://127.0.0.1:4711", "http://localhost:4711"):
        assert gate.origin_fault(host | {"origin": bad}) != ""
    assert gate.origin_fault(host) != ""


def test_the_cookie_and_the_key_are_needed_both() -> None:
    gate, other = Gate(4711), Gate(4711)
    cookies, headers = {gate.cookie_name: gate.cookie}, {KEY_HEADER: gate.key}
    assert gate.login_fault(headers, cookies) == ""
    for bad in ({}, {KEY_HEADER: gate.cookie}, {KEY_HEADER: other.key}, {KEY_HEADER: "\u00e9"}):
        assert gate.login_fault(bad, cookies) != ""
    for lost in ({}, {gate.cookie_name: gate.key}, {"arbiter_1": gate.cookie}):
        assert gate.login_fault(headers, lost) != ""
    assert len({gate.cookie, gate.key, gate.token, other.cookie, other.key, other.token}) == 6


def test_the_token_is_long_and_in_the_part_of_the_url_that_is_not_sent() -> None:
    gate = Gate(4711)
    assert gate.token_fault(gate.token) == ""
    assert gate.token_fault(gate.token[:-1]) != "" and gate.token_fault("") != ""
    assert gate.url() == f"http://127.0.0.1:4711/#{gate.token}"
    assert len(gate.token) >= 43, "32 bytes in base64"
    assert gate.token not in repr(gate) and gate.key not in repr(gate)
    assert "HttpOnly" in gate.set_cookie and "SameSite=Strict" in gate.set_cookie


def test_the_policy_allows_this_console_only() -> None:
    policy = HEADERS["content-security-policy"]
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "unsafe" not in policy and "http" not in policy


# --- the board ------------------------------------------------------------------------------


def seen(told: dict[str, Any], line: bytes) -> dict[str, Any]:
    """What a page knows after a line."""
    if line:
        news = json.loads(line)
        told = {key: view for key, view in told.items() if key not in news["gone"]}
        told |= news["set"]
    return told


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)), max_size=12), st.data()
)
def test_a_page_that_looks_now_and_then_knows_all_there_is(
    shows: list[dict[str, int]], data: st.DataObject
) -> None:
    board, reader, told = Board(), Reader(), dict[str, Any]()
    for show in shows:
        board.show(show)
        if data.draw(st.booleans()):
            told = seen(told, reader.news(board))
            assert told == show
    told = seen(told, reader.news(board))
    assert told == (shows[-1] if shows else {})
    assert reader.news(board) == b"", "nothing twice"


def test_what_has_not_changed_is_no_news_and_not_sent_again() -> None:
    board, reader = Board(), Reader()
    assert board.show({"a": 1, "b": 2})
    assert not board.show({"a": 1, "b": 2})
    reader.news(board)
    assert board.show({"a": 1, "b": 3})
    assert json.loads(reader.news(board)) == {"set": {"b": 3}, "gone": []}
    assert board.show({"b": 3})
    assert json.loads(reader.news(board)) == {"set": {}, "gone": ["a"]}


# --- requests -------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_whatever_a_page_sends_is_a_request_or_a_request_error(body: bytes) -> None:
    for type in (requests.Answered, requests.Preview, requests.Snoozing, requests.Filter):
        try:
            requests.decode(body, type)
        except RequestError as error:
            assert str(error).startswith("not a request of this console")


@pytest.mark.parametrize(
    "body",
    [
        {"ask": 7, "decision": "allow", "scope": "app", "lifetime": "once"},
        {"ask": -1, "decision": "allow", "scope": "app", "lifetime": "once", "rule": ""},
        {"ask": 7, "decision": "maybe", "scope": "app", "lifetime": "once", "rule": ""},
        {"ask": 7, "decision": "deny", "scope": "a" * 5000, "lifetime": "once", "rule": ""},
        {"ask": 7, "decision": "deny", "scope": "app", "lifetime": "once", "rule": "", "x": 1},
    ],
)
def test_a_request_has_all_its_fields_and_no_others(body: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="not a request"):
        requests.decode(json.dumps(body).encode(), requests.Answered)
