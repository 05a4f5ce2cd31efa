"""The routes: static files for everybody, the rest for whoever had the token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompts.commands import Done
from prompts.render import tidy
from prompts.web import requests, views
from prompts.web.desk import Desk
from prompts.web.gate import HEADERS, Gate
from prompts.web.requests import RequestError

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
FILES = {path.name: path for path in STATIC.iterdir() if path.suffix in TYPES}
MAX_PAGES = 16
"""Streams at a time: a page has one."""


Handler = Callable[[Request], Awaitable[Response]]


class Guard:
    """Around all routes: Host is checked before anything is looked at, and headers are added."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app, self.gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)  # lifespan; nothing here speaks WebSocket
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        names = [name for name, _ in scope["headers"]]
        fault = self.gate.host_fault(Request(scope).headers)
        if fault or names.count(b"host") != 1:
            refusal = PlainTextResponse(f"{fault or 'one Host, please'}\n", 421)
            await refusal(scope, receive, with_headers)
            return
        await self.app(scope, receive, with_headers)


def build(desk: Desk) -> ASGIApp:
    """The whole application."""
    gate, run = desk.gate, desk.run

    async def static(request: Request) -> Response:
        path = FILES.get(request.path_params.get("name", "index.html"))
        if path is None:
            return PlainTextResponse("there is no such file\n", 404)
        return FileResponse(path, media_type=TYPES[path.suffix])

    async def login(request: Request) -> Response:
        fault = gate.origin_fault(request.headers)
        if not fault:
            fault = gate.token_fault(requests.decode(await _body(request), requests.Login).token)
        if fault:
            return _json({"error": fault}, 403)
        return _json({"key": gate.key}, headers={"set-cookie": gate.set_cookie})

    async def news(_: Request) -> Response:
        if desk.pages() >= MAX_PAGES:
            return _json({"error": f"{MAX_PAGES} pages are open: close one"}, 503)
        return StreamingResponse(desk.news(), media_type="application/x-ndjson")

    def asking(type: type[msgspec.Struct]) -> Handler:
        async def handle(request: Request) -> Response:
            return _json(await desk.carry_out(requests.decode(await _body(request), type)))

        return handle

    async def rules(_: Request) -> Response:
        done = await run("rules", "list", "--json")
        return _json({"rows": list(map(views.rule_view, done.rows())), "problem": done.said})

    async def usage(_: Request) -> Response:
        days = await run("links", "usage", "--by", "day,link", "--json")
        apps = await run("links", "usage", "--by", "link,app", "--json")
        shown = {"days": days.rows(), "apps": apps.rows()}
        out = {name: list(map(views.usage_view, rows)) for name, rows in shown.items()}
        return _json(out | {"problem": days.said or apps.said})

    async def add(request: Request) -> Response:
        new = requests.decode(await _body(request), requests.Line)
        place = () if new.instead_of is None else ("--instead-of", str(new.instead_of))
        return _told(await run("rules", "add", *place, "--", new.line))

    async def remove(request: Request) -> Response:
        number = requests.decode(await _body(request), requests.RuleId).id
        return _told(await run("rules", "remove", str(number)))

    async def undo(request: Request) -> Response:
        requests.decode(await _body(request), requests.Nothing)
        return _told(await run("rules", "undo"))

    asks: Mapping[str, type[msgspec.Struct]] = {
        "preview": requests.Preview,
        "answer": requests.Answered,
        "snooze": requests.Snoozing,
        "undo": requests.Undoing,
        "disturb": requests.Disturb,
        "connections": requests.Filter,
        "apps": requests.AllApps,
        "app": requests.AppOf,
        "app/records": requests.AppRecords,
        "audit": requests.Audit,
    }
    own: dict[str, Handler] = {
        "news": news,
        "rules": rules,
        "rules/add": add,
        "rules/remove": remove,
        "rules/undo": undo,
        "usage": usage,
    } | {name: asking(type) for name, type in asks.items()}

    def guarded(handler: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            fault = gate.origin_fault(request.headers)
            if fault:
                return _json({"error": fault}, 403)
            fault = gate.login_fault(request.headers, request.cookies)
            if fault:
                return _json({"error": fault}, 401)
            return await handler(request)

        return handle

    def safe(handler: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestError as error:  # a bad request, or one that cannot be carried out now
                return _json({"error": str(error)}, 409)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it

        return handle

    routes = [
        Route("/", static, methods=["GET"]),
        Route("/static/{name}", static, methods=["GET"]),
        Route("/api/login", safe(login), methods=["POST"]),
        *(Route(f"/api/{name}", safe(guarded(h)), methods=["POST"]) for name, h in own.items()),
    ]
    return Guard(Starlette(routes=routes), gate)


async def _body(request: Request) -> bytes:
    """The body, if it is JSON and not too large. Raises RequestError."""
    if request.headers.get("content-type", "") != "application/json":
        raise RequestError("a request is application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > requests.MAX_BODY:
            raise RequestError(f"a request has {requests.MAX_BODY} bytes at most")
    return body


def _json(value: object, code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), code, headers, "application/json")


def _told(done: Done) -> Response:
    """What a command said, for the person who had it run."""
    lines = [tidy(line) for line in done.out.splitlines() if line.strip()]
    return _json({"ok": done.code == 0, "text": "\n".join([*lines, done.said]).strip() or "done"})
