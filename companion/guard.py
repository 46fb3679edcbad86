"""What stands before an application on the web: who is asked, how much comes in, who has left."""

import asyncio
import contextlib
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

Receive = Callable[[], Awaitable[dict]]
Send = Callable[[dict], Awaitable[None]]

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


class Refusal(Exception):
    """A request that is not served.

    Args:
        status: The HTTP status, 4xx or 5xx.
        message: What was expected, what came, or what to do.
        headers: More headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})

    @property
    def body(self) -> dict:
        """What the answer says, the same of every error: {"error": {"status", "message"}}."""
        return {"error": {"status": self.status, "message": self.message}}


FAULT = Refusal(500, "Something went wrong here; what it was is in the server's log.")


class Guard:
    """ASGI middleware: checks the host, reads the body within limits, sets headers, cancels for who has left.

    Args:
        app: The application inside.
        hosts: Names that a request may give this server, without ports, besides addresses; None: any. So a
            page of another site cannot ask by letting its own name point here (DNS rebinding).
        max_body: Most bytes of a body.
        patience: Seconds that a body may take.
    Headers that the application sets itself stay as they are. An exception of the application becomes an
    answer 500, and is logged.
    """

    def __init__(self, app: Any, hosts: Collection[str] | None, max_body: int, patience: float = 30.0):
        self.app, self.max_body, self.patience = app, max_body, patience
        self.hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: dict, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        answer = _Answer(send)
        try:
            self._check_host(scope)
            body = await self._body(scope, receive)
            await self._serve(scope, body, receive, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except Exception:
            logging.getLogger(__name__).exception("%s %s failed", scope["method"], scope["path"])
            if answer.started:
                raise
            await answer.refuse(FAULT)

    def _check_host(self, scope):
        given = _header(scope, b"host")
        name = given.rpartition("]")[0] + "]" if given.startswith("[") else given.partition(":")[0]
        if self.hosts is not None and name.lower() not in self.hosts and not _is_address(name):
            raise Refusal(
                400, f"Host must be one of {', '.join(sorted(self.hosts))}; received {given[:80]!r}."
            )

    async def _body(self, scope, receive):
        said = _header(scope, b"content-length") or "0"
        if said.isdecimal() and int(said[:20]) > self.max_body:
            raise self._too_large(said[:20])
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self.patience):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "The client left before its body was here.")
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > self.max_body:
                        raise self._too_large(f"{size} or more")
        except TimeoutError as error:
            raise Refusal(408, f"A body must come within {self.patience:g} seconds.") from error
        return b"".join(parts)

    def _too_large(self, size):
        message = f"A body must have at most {self.max_body} bytes; received {size}."
        return Refusal(413, message, {"connection": "close"})

    async def _serve(self, scope, body, receive, answer):
        """Runs the application, and stops it when the client leaves: after a body nothing else comes."""
        left, whole = asyncio.Event(), iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay():
            if message := next(whole, None):
                return message
            await left.wait()
            return {"type": "http.disconnect"}

        work = asyncio.create_task(self.app(scope, replay, answer.send))
        leaving = asyncio.create_task(receive())
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            left.set()
            if work.done():
                return work.result()
        finally:
            leaving.cancel()
            work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


class _Answer:
    """What is sent to the client, with the headers that every answer has."""

    def __init__(self, send):
        self._send, self.started = send, False

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.started = True
            given = {name for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            more = [(name, value) for name, value in more if name not in given]
            message = message | {"headers": [*message["headers"], *more]}
        await self._send(message)

    async def refuse(self, refusal):
        body = json.dumps(refusal.body).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})


def _is_address(name):
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name.strip("[]")))
    return False


def _header(scope, name):
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
