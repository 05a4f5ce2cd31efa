"""The prompt messages and their codec: newline-delimited JSON over the daemon's Unix socket.

One message is one line of UTF-8 JSON, an object whose "type" names it; docs/protocol.md
describes each, fixtures/messages/ has an example of each. Strings that a process, DNS or a peer
chose pass through `clean` before they enter a message.
"""

from __future__ import annotations

from arbiter.protocol.audit import (
    ReadRecords,
    RecordFilters,
    Records,
    SumRecords,
    Sums,
)
from arbiter.protocol.codec import (
    MAX_MESSAGE,
    LineDecoder,
    ProtocolError,
    client_decoder,
    daemon_decoder,
    encode,
)
from arbiter.protocol.live import (
    Closed,
    Connection,
    Links,
    Moved,
    Traffic,
)
from arbiter.protocol.messages import (
    VERSION,
    Answer,
    Ask,
    Away,
    Changed,
    ClientMessage,
    DaemonMessage,
    Decided,
    Follow,
    Hello,
    InForce,
    Message,
    Notice,
    Query,
    Refused,
    Running,
    RunVia,
    Snooze,
    Snoozed,
    Status,
    Undo,
    Undone,
    Welcome,
    Withdraw,
)
from arbiter.protocol.text import (
    MAX_TEXT,
    clean,
)
from arbiter.protocol.views import (
    AdviceView,
    AppView,
    Destination,
    LinkState,
    LinkView,
    ProcessView,
    Scope,
    SnoozeView,
)
from arbiter.protocol.words import (
    Choice,
    RefusedReason,
    Role,
    WithdrawReason,
)

__all__ = [
    "MAX_MESSAGE",
    "MAX_TEXT",
    "VERSION",
    "AdviceView",
    "Answer",
    "AppView",
    "Ask",
    "Away",
    "Changed",
    "Choice",
    "ClientMessage",
    "Closed",
    "Connection",
    "DaemonMessage",
    "Decided",
    "Destination",
    "Follow",
    "Hello",
    "InForce",
    "LineDecoder",
    "LinkState",
    "LinkView",
    "Links",
    "Message",
    "Moved",
    "Notice",
    "ProcessView",
    "ProtocolError",
    "Query",
    "ReadRecords",
    "RecordFilters",
    "Records",
    "Refused",
    "RefusedReason",
    "Role",
    "RunVia",
    "Running",
    "Scope",
    "Snooze",
    "SnoozeView",
    "Snoozed",
    "Status",
    "SumRecords",
    "Sums",
    "Traffic",
    "Undo",
    "Undone",
    "Welcome",
    "Withdraw",
    "WithdrawReason",
    "clean",
    "client_decoder",
    "daemon_decoder",
    "encode",
]
