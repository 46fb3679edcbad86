"""`companion serve`: saved models behind a page and a JSON API, on this machine (article section 6)."""

import argparse
import asyncio
import contextlib
import importlib.resources
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

import companion
from companion.base import check_at_least
from companion.endpoints import ERRORS, api
from companion.guard import Guard, Refusal
from companion.service import TASKS, Service, absent

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript"}


class Loaded(BaseModel):
    """A loaded model: its name in requests, and the task that it does."""

    name: str
    task: str


class Absent(BaseModel):
    """A task that no loaded model does, and what to do about it."""

    task: str
    chapter: str
    message: str


class Limits(BaseModel):
    """Most characters of a text, texts of a request, tokens of a completion; seconds of an answer."""

    max_length: int
    max_texts: int
    max_new_tokens: int
    timeout: float


class Models(BaseModel):
    """What is loaded, what is not, and what may be asked."""

    models: list[Loaded]
    absent: list[Absent]
    limits: Limits


class Health(BaseModel):
    """Whether the server answers, its version, and how many texts wait."""

    status: str
    version: str
    waiting: int


def create_app(
    applications: Mapping[str, Any],
    allow_origin: Sequence[str] = (),
    hosts: Sequence[str] | None = LOOPBACK,
    warm_up: bool = False,
    **limits,
) -> FastAPI:
    """The page and the JSON API for loaded applications.

    Args:
        applications: {name: `Translator`, `TextClassifier`, `TextGenerator` or `WordVectors`}.
        allow_origin: Other sites whose pages may use the API, "http://localhost:3000"; none if empty.
        hosts: Names under which the server may be asked, besides addresses, as `Guard` checks; None: any.
        warm_up: Compute something with each model at the start, so that the first request is no slower.
        **limits: Passed on to `Service`: max_length, timeout ...
    Returns:
        An application to be run by a server of the ASGI kind, in one process.
    Raises:
        TypeError, ValueError: As `Service`.
    """
    service = Service(applications, **limits)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        async with service.worker, _background(service.warm_up() if warm_up else None):
            yield

    about = 'Translate, classify, complete and compare with the models of the book. Errors: {"error": …}.'
    names = {"title": "companion", "version": companion.__version__, "description": about}
    # The usual pages of documentation load scripts from elsewhere.
    app = FastAPI(**names, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.include_router(api(service))
    _add_state(app, service)
    for path in FILES:
        app.add_api_route(path, _file(path), include_in_schema=False)
    if allow_origin:
        methods, headers = ["GET", "POST"], ["content-type"]
        app.add_middleware(
            CORSMiddleware, allow_origins=list(allow_origin), allow_methods=methods, allow_headers=headers
        )
    app.add_middleware(Guard, hosts=hosts, max_body=service.max_body)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    for status in (400, 404, 405):
        app.add_exception_handler(status, _no_route)
    return app


def serve(options: argparse.Namespace) -> int:
    """Serves the models of a folder until it is interrupted.

    Args:
        options: model (folder of one or several; None: where the chapters leave theirs), host, port (0: any
            that is free), allow_origin (list), max_length (characters), timeout (seconds).
    Returns:
        The exit code, 0.
    Raises:
        OSError: The port is taken, or the host is none of this machine's.
        ValueError, FileNotFoundError: A model is damaged, or not there.
    """
    from companion.applications import find_applications, load_application, models_folder

    found = find_applications(options.model or models_folder())
    app = create_app(
        {name: load_application(path) for name, path in found.items()},
        allow_origin=options.allow_origin or (),
        hosts=(*LOOPBACK, options.host.lower(), socket.gethostname().lower()),
        warm_up=True,
        max_length=options.max_length,
        timeout=options.timeout,
    )
    for name, task in app.state.service.tasks.items():
        print(f"{name}: {TASKS[task].noun}")
    with _listening(options.host, options.port) as (sockets, url):
        print(f"Open {url} in a browser; Ctrl+C ends it.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when all is closed
            _server(app).run(sockets=sockets)
    return 0


@contextlib.contextmanager
def running(app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Runs an application in a thread while the block lasts; gives its address, "http://127.0.0.1:8000".

    Args:
        app: What `create_app` returns.
        host, port: Where; 0: any port that is free.
    Raises:
        OSError: The port is taken.
    """
    with _listening(host, port) as (sockets, url):
        server = _server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": sockets}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join()


def _server(app):
    return uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=5
        )
    )


@contextlib.contextmanager
def _listening(host, port):
    check_at_least(0, port=port)
    if port > 65535:
        raise ValueError(f"port must be at most 65535; received port={port}.")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        shown = f"[{here}]" if ":" in here else here
        yield [listener], f"http://{shown}:{listener.getsockname()[1]}"


@contextlib.asynccontextmanager
async def _background(work):
    """Runs work beside what the block does, at most as long as it."""
    task = asyncio.create_task(work) if work else None
    yield
    if task:
        task.cancel()
        await asyncio.wait([task])


def _add_state(app, service):
    @app.get("/health", responses={status: ERRORS[status] for status in (400, 500)}, summary="Answer at once")
    async def health() -> Health:
        return Health(status="ok", version=companion.__version__, waiting=service.worker.waiting)

    @app.get(
        "/api/models",
        responses={status: ERRORS[status] for status in (400, 500)},
        summary="Tell what is loaded",
    )
    async def models() -> Models:
        loaded = [Loaded(name=name, task=task) for name, task in service.tasks.items()]
        lacking = [name for name in TASKS if name not in service.tasks.values()]
        return Models(
            models=loaded,
            absent=[Absent(task=name, chapter=TASKS[name].chapter, message=absent(name)) for name in lacking],
            limits=Limits(**{name: getattr(service, name) for name in Limits.model_fields}),
        )


def _file(path):
    name = "page.html" if path == "/" else path[1:]
    content = importlib.resources.files("companion").joinpath(name).read_bytes()
    headers = {"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"}

    async def send() -> Response:
        return Response(content, media_type=f"{FILES[path]}; charset=utf-8", headers=headers)

    return send


async def _refused(_: Request, refusal: Refusal) -> JSONResponse:
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


async def _no_route(request: Request, error: Exception) -> JSONResponse:
    asked = f"{request.method} {request.url.path}"
    return await _refused(
        request, Refusal(error.status_code, f"{error.detail}: {asked[:200]}", error.headers)
    )


async def _invalid(request: Request, invalid: RequestValidationError) -> JSONResponse:
    errors = list(invalid.errors())
    message = " ".join(map(_said, errors[:3])) + (f" And {len(errors) - 3} more." if len(errors) > 3 else "")
    message = message.encode("utf-8", "backslashreplace").decode()  # a name may hold half a character
    return await _refused(request, Refusal(422, message))


def _said(error):
    """What was expected and what came, as the rest of companion says it."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"][1:])
    name = name.removeprefix(".")[:80] or "body"
    if error["type"] == "json_invalid":
        return f"body must be JSON; received something else: {error['ctx']['error']}."
    if error["type"] == "missing":
        return f"{name} must be given."
    if error["type"] == "extra_forbidden":
        return f"{name} is no field of this request."
    if error["type"] == "string_pattern_mismatch":
        expected = "hold something to read, and no control characters"
    else:
        expected = re.sub(r"^\w+ should | after validation.*", "", error["msg"])
    return f"{name} must {expected}; received {repr(error['input'])[:80]}."
