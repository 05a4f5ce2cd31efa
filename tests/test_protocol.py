"""The prompt protocol: its codec, its example files, and docs/protocol.md."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import typing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_daemon import MESSAGES, ScriptedDaemon, example_ask

from arbiter import protocol
from arbiter.protocol import (
    MAX_MESSAGE,
    VERSION,
    Answer,
    Choice,
    Hello,
    Message,
    ProtocolError,
    Query,
    Refused,
    RefusedReason,
    Role,
    Status,
    Welcome,
    clean,
    client_decoder,
    daemon_decoder,
    encode,
)
from prompts.client import Client, ClientError, Event, Lost, Unread

ROOT = Path(__file__).parent.parent
DOC = (ROOT / "docs" / "protocol.md").read_text()
KINDS: dict[str, type[Message]] = {
    str(kind.__struct_config__.tag): kind for kind in typing.get_args(Message)
}


def decode(line: bytes, kind: type[Message]) -> list[Message | ProtocolError]:
    clients = typing.get_args(protocol.ClientMessage)
    return [*(client_decoder() if kind in clients else daemon_decoder()).feed(line)]


# --- examples and documentation -------------------------------------------------------------


def test_every_message_has_exactly_one_example_file() -> None:
    assert {path.stem for path in MESSAGES.glob("*.json")} == set(KINDS)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_example_decodes_to_its_type_and_encodes_to_itself(name: str) -> None:
    example = json.loads((MESSAGES / f"{name}.json").read_bytes())
    line = json.dumps(example).encode() + b"\n"
    [message] = decode(line, KINDS[name])
    assert type(message) is KINDS[name]
    assert json.loads(encode(message)) == example, "the example leaves a field out, or has one more"


@pytest.mark.parametrize("name", sorted(KINDS))
def test_document_has_the_example_and_every_field(name: str) -> None:
    section = re.split(r"^### ", DOC, flags=re.M)
    [text] = [part for part in section if part.startswith(f"`{name}`")]
    [block] = re.findall(r"```json\n(.*?)```", text, flags=re.S)
    assert json.loads(block) == json.loads((MESSAGES / f"{name}.json").read_bytes())
    for field in KINDS[name].__struct_fields__:
        assert f"| `{field}` |" in text, f"docs/protocol.md does not describe {name}.{field}"


@pytest.mark.parametrize("reason", [*RefusedReason, *protocol.WithdrawReason])
def test_document_names_every_reason(reason: str) -> None:
    assert f"`{reason}`" in DOC


@pytest.mark.parametrize(
    "kind", [protocol.ProcessView, protocol.AppView, protocol.Destination, protocol.Scope]
)
def test_document_describes_the_parts_of_an_ask(kind: type[msgspec.Struct]) -> None:
    for field in kind.__struct_fields__:
        assert f"`{field}`" in DOC


def test_document_states_the_limits_in_force() -> None:
    assert f"{MAX_MESSAGE} bytes" in DOC
    assert f"{protocol.MAX_TEXT} characters" in DOC
    assert f"version {VERSION}" in DOC


# --- codec ----------------------------------------------------------------------------------

MESSAGE = st.one_of(
    st.builds(Hello, st.integers(0, 99), st.sampled_from(Role), st.text(max_size=30).map(clean)),
    st.builds(
        Answer,
        st.integers(0, 2**40),
        st.sampled_from(Choice),
        st.sampled_from(["connection", "app"]),
        st.sampled_from(["once", "15m"]),
        st.lists(st.sampled_from(["lte", "any"]), max_size=2).map(tuple),
    ),
    st.just(Query()),
)


@given(st.lists(MESSAGE, max_size=8), st.lists(st.integers(1, 60), min_size=1))
def test_messages_arrive_whole_and_in_order_however_the_bytes_are_cut(
    messages: list[Message], sizes: list[int]
) -> None:
    data, decoder, out, index = b"".join(map(encode, messages)), client_decoder(), [], 0
    while data:
        size = sizes[index % len(sizes)]
        out += decoder.feed(data[:size])
        data, index = data[size:], index + 1
    assert out == messages


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_give_messages_or_protocol_errors_and_nothing_else(chunks: list[bytes]) -> None:
    decoder = client_decoder()
    for chunk in chunks:
        for item in decoder.feed(chunk):
            assert isinstance(item, (ProtocolError, Hello, Answer, Query, protocol.Changed))


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b'{"type":"nonsense"}',
        b'{"type":"hello"}',
        b'{"type":"answer","ask":"7","decision":"allow"}',
        b'{"type":"answer","ask":7,"decision":"maybe"}',
        b'{"type":"answer","ask":7,"decision":"allow","scop":"app"}',
        b'{"type":"welcome"}',
        b"\xff\xfe",
        b"[" * 60000,
    ],
    ids=lambda line: repr(line[:40]),
)
def test_a_bad_line_is_malformed_and_the_next_good_one_is_read(line: bytes) -> None:
    bad, good = client_decoder().feed(line + b"\n" + encode(Query()))
    assert isinstance(bad, ProtocolError)
    assert (bad.reason, bad.fatal) == (RefusedReason.MALFORMED, False)
    assert good == Query()


def padded(size: int) -> bytes:
    line = encode(Query())
    return line[:-1] + b" " * (size - len(line)) + b"\n"


def test_a_line_may_have_exactly_max_message_bytes() -> None:
    assert client_decoder().feed(padded(MAX_MESSAGE)) == [Query()]


@pytest.mark.parametrize("tail", [b"", encode(Query())])
def test_a_longer_line_is_fatal_and_nothing_after_it_is_read(tail: bytes) -> None:
    decoder = client_decoder()
    [*_, error] = decoder.feed(padded(MAX_MESSAGE + 1) + tail)
    assert isinstance(error, ProtocolError)
    assert (error.reason, error.fatal) == (RefusedReason.TOO_LARGE, True)
    assert decoder.feed(encode(Query())) == []


def test_an_endless_line_is_not_kept() -> None:
    decoder, fatal = client_decoder(), 0
    for _ in range(100):
        fatal += len(decoder.feed(b"x" * 4096))
    assert fatal == 1


def test_a_daemon_with_more_fields_is_understood_but_a_client_with_more_is_not() -> None:
    newer = b'{"type":"withdraw","ask":7,"reason":"rule","colour":"red"}\n'
    assert daemon_decoder().feed(newer) == [protocol.Withdraw(7, protocol.WithdrawReason.RULE)]
    [refused] = client_decoder().feed(b'{"type":"query","colour":"red"}\n')
    assert isinstance(refused, ProtocolError)


@given(st.text(alphabet=st.characters(), max_size=300), st.integers(1, 100))
def test_cleaned_text_is_short_printable_and_stays_so(text: str, limit: int) -> None:
    out = clean(text, limit)
    assert len(out) <= limit
    assert clean(out, limit) == out
    assert all(c.isprintable() or c.isspace() for c in out)
    assert not set(out) & set("\n\r\t\x1b\x7f\x9b\u202e\u2066\u200b\u2028")
    out.encode()


# --- the client -----------------------------------------------------------------------------


def test_client_says_hello_and_gets_the_open_asks(tmp_path: Path) -> None:
    async def scene() -> None:
        async with ScriptedDaemon(tmp_path / "s", example_ask(3), example_ask(4)) as daemon:
            async with await Client.connect(daemon.path, "mine", Role.PROMPT) as client:
                events = await take(client, 3)
            assert daemon.received == [Hello(VERSION, Role.PROMPT, "mine")]
            assert isinstance(events[0], Welcome)
            assert events[1:] == [example_ask(3), example_ask(4)]

    asyncio.run(scene())


async def take(client: Client, count: int) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(10):
        async for event in client:
            events.append(event)
            if len(events) == count:
                break
    return events


def test_query_gives_the_status_and_loses_nothing_that_came_before(tmp_path: Path) -> None:
    async def scene() -> None:
        async with (
            ScriptedDaemon(tmp_path / "s", example_ask(3)) as daemon,
            await Client.connect(daemon.path, "mine", Role.COMMAND) as client,
        ):
            assert isinstance(await client.query(), Status)
            assert [type(event) for event in await take(client, 2)] == [Welcome, protocol.Ask]

    asyncio.run(scene())


def test_prompt_comes_back_after_the_daemon_was_away_and_sees_open_asks(tmp_path: Path) -> None:
    async def scene() -> None:
        daemon = ScriptedDaemon(tmp_path / "s")
        await daemon.start()
        async with await Client.connect(daemon.path, "mine") as client:
            await take(client, 1)
            await daemon.stop()
            [lost] = await take(client, 1)
            assert isinstance(lost, Lost)
            assert daemon.path in lost.text
            with pytest.raises(ClientError, match="not connected"):
                await client.answer(7, Choice.DENY)
            daemon.asks[9] = example_ask(9)
            await daemon.start()
            welcome, ask = await take(client, 2)
            assert isinstance(welcome, Welcome)
            assert ask == example_ask(9)
        await daemon.stop()

    asyncio.run(scene())


def test_a_command_does_not_wait_for_a_daemon_that_left(tmp_path: Path) -> None:
    async def scene() -> None:
        async with ScriptedDaemon(tmp_path / "s") as daemon:
            client = await Client.connect(daemon.path, "mine", Role.COMMAND)
            await take(client, 1)
            await daemon.stop()
            with pytest.raises(ClientError, match="ended the connection"):
                await take(client, 1)

    asyncio.run(scene())


def test_no_daemon_is_an_error_with_the_path_and_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ClientError) as caught:
        asyncio.run(Client.connect(str(tmp_path / "none.sock"), "mine"))
    assert str(tmp_path / "none.sock") in caught.value.text
    assert "`arbiter run`" in caught.value.text


def test_refusal_and_other_versions_end_the_connection_with_their_text(tmp_path: Path) -> None:
    async def scene() -> None:
        async with ScriptedDaemon(tmp_path / "s", version=VERSION + 1) as daemon:
            with pytest.raises(ClientError, match="same release"):
                await Client.connect(daemon.path, "mine")
            daemon.refuse = Refused(RefusedReason.VERSION, "speak 2\x1b[2J")
            with pytest.raises(ClientError, match="speak 2\ufffd") as caught:
                await Client.connect(daemon.path, "mine")
            assert caught.value.refused == daemon.refuse

    asyncio.run(scene())


def test_a_daemon_that_comes_back_with_another_version_ends_the_prompt(tmp_path: Path) -> None:
    async def scene() -> None:
        daemon = ScriptedDaemon(tmp_path / "s")
        await daemon.start()
        async with await Client.connect(daemon.path, "mine") as client:
            await take(client, 1)
            await daemon.stop()
            daemon.version += 1
            await daemon.start()
            with pytest.raises(ClientError, match="same release"):
                await take(client, 2)
        await daemon.stop()

    asyncio.run(scene())


def test_an_unreadable_line_is_told_and_a_too_long_one_reconnects(tmp_path: Path) -> None:
    async def scene() -> None:
        async with (
            ScriptedDaemon(tmp_path / "s") as daemon,
            await Client.connect(daemon.path, "mine") as client,
        ):
            await take(client, 1)
            daemon.raw(b"{}\n")
            assert isinstance((await take(client, 1))[0], Unread)
            daemon.raw(b"x" * (MAX_MESSAGE + 1))
            kinds = [type(event) for event in await take(client, 3)]
            assert kinds == [Unread, Lost, Welcome]

    asyncio.run(scene())


def test_the_frontend_in_the_document_runs_and_answers(tmp_path: Path) -> None:
    [source] = re.findall(r"```python\n(.*?)```", DOC, flags=re.S)
    assert source.count("\n") <= 30
    script = tmp_path / "frontend.py"
    script.write_text(source)

    async def scene() -> None:
        async with ScriptedDaemon(tmp_path / "s", example_ask(7)) as daemon:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                str(script),
                daemon.path,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert child.stdout is not None
            async with asyncio.timeout(20):
                lines = [await child.stdout.readline() for _ in range(2)]
            child.terminate()
            await child.wait()
            assert daemon.received[1:] == [Answer(7, Choice.DENY, "connection", "15m")]
            assert b"curl, from deploy.sh, wants to connect to 192.0.2.7" in lines[0]
            assert b"denied curl" in lines[1]

    asyncio.run(scene())
