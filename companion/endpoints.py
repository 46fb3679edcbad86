"""What `companion serve` can be asked over HTTP: requests, answers and their limits, described by OpenAPI."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from companion.guard import FAULT, Refusal
from companion.service import MAX_COUNT, Service, attention_page, attributions, classified

# Something to read; of the control characters only tab and the ends of lines.
_ANY, _CONTROL = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*", r"\x00-\x1f\x7f-\x9f"
READABLE = rf"^{_ANY}[^\s{_CONTROL}]{_ANY}$"
EXPLORER_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'self'"
)
Word = Annotated[str, StringConstraints(max_length=100, pattern=READABLE)]
_whole = BeforeValidator(lambda x: int(x) if isinstance(x, float) and x.is_integer() else x)
Integer = Annotated[int, _whole]  # to JSON 2.0 is one too
Seed = Annotated[int, Field(ge=0, lt=2**31), _whole]
ModelName = Annotated[str | None, Field(max_length=100, description="One of /api/models; else the first.")]


class Asked(BaseModel):
    """A body: exactly these fields, of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: ModelName = None


class Fault(BaseModel):
    """What went wrong: the HTTP status, and what was expected and what came, or what to do."""

    status: int
    message: str


class Error(BaseModel):
    """The shape of every error."""

    error: Fault


class Translated(BaseModel):
    """A translation for each text, in their order."""

    model: str
    translations: list[str]


class Attribution(BaseModel):
    """How far the label's probability falls when the token is unknown: above 0, it speaks for the label."""

    token: str
    score: float


class Label(BaseModel):
    """The answer for one text; the tokens that the model read, if attributions were asked for."""

    label: str | int
    probabilities: dict[str, float]
    attributions: list[Attribution] | None = None


class Classified(BaseModel):
    """An answer for each text, in their order."""

    model: str
    results: list[Label]


class Completed(BaseModel):
    """What the model wrote after the prompt."""

    model: str
    completion: str


class Neighbor(BaseModel):
    """A word and the cosine between its vector and that of the word asked for."""

    word: str
    cosine: float


class Similar(BaseModel):
    """The nearest words, the nearest first."""

    model: str
    word: str
    similar: list[Neighbor]


_STATUSES = {
    400: "The Host header names another server.",
    404: "The model is not loaded, or the word has no vector; the message says which chapter makes it.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "The request does not fit its description.",
    500: "A fault of the server.",
    503: "Too much is waiting.",
    504: "The answer took too long.",
}
_RETRY = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
ERRORS = {
    status: {"model": Error, "description": text} | ({"headers": _RETRY} if status > 500 else {})
    for status, text in _STATUSES.items()
}
# The same for a route whose answer is no JSON: a model would be described as of the answer's type.
_JSON = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
ERRORS_OF_PAGES = {
    status: {name: value for name, value in error.items() if name != "model"} | {"content": _JSON}
    for status, error in ERRORS.items()
}


class _StrictRequest(Request):
    """Reads JSON as the standard has it: UTF-8, no NaN, no Infinity."""

    async def json(self):
        body = await self.body()
        try:
            return json.loads(body.decode("utf-8"), parse_constant=_refused)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class StrictRoute(APIRoute):
    """A route whose body is JSON and says so: a page of another site cannot send that unasked."""

    def get_route_handler(self):
        """The handler, with the checks before it."""
        handle = super().get_route_handler()

        async def checked(request):
            kind = request.headers.get("content-type", "")
            if self.body_field and kind.partition(";")[0].strip().lower() != "application/json":
                raise Refusal(415, f"content-type must be application/json; received {kind[:80]!r}.")
            return await handle(_StrictRequest(request.scope, request.receive))

        return checked


def api(service: Service) -> APIRouter:
    """The routes below /api.

    Args:
        service: What they ask, and the limits.
    """
    router = APIRouter(prefix="/api", responses=ERRORS, route_class=StrictRoute)
    text = Annotated[str, StringConstraints(max_length=service.max_length, pattern=READABLE)]
    texts = Annotated[list[text], Field(min_length=1, max_length=service.max_texts)]
    _add_translate(router, service, texts)
    _add_attention(router, service, text)
    _add_classify(router, service, texts)
    _add_complete(router, service, text)
    _add_similar(router, service)
    return router


def _add_translate(router, service, texts_type):
    class Translate(Asked):
        texts: texts_type = Field(examples=[["The file cannot be opened."]])
        beam_size: Integer = Field(1, ge=1, le=4, description="Targets that beam search extends; 1: greedy.")

    @router.post("/translate", summary="Translate texts")
    async def translate(asked: Translate) -> Translated:
        name, translator = service.find("translate", asked.model)

        def run(items):
            try:
                return translator.translate([text for _, text in items], beam_size=asked.beam_size)
            except ValueError as error:
                if len(items) > 1:  # each is asked for alone next
                    raise
                raise ValueError(str(error).replace("texts[0]", f"texts[{items[0][0]}]", 1)) from error

        key, items = ("translate", name, asked.beam_size), list(enumerate(asked.texts))
        done = await service.within(service.worker.map(run, items, key, service.max_batch))
        return Translated(model=name, translations=done)


def _add_attention(router, service, text_type):
    class Attention(BaseModel):
        model_config = ConfigDict(extra="forbid")
        text: text_type = Field(examples=["The file cannot be opened."])
        translation: text_type | None = Field(None, description="The text it attends from; else the model's.")
        model: ModelName = None

    about = {"summary": "Explore what a translation attends to", "responses": ERRORS_OF_PAGES}

    @router.get("/attention", response_class=HTMLResponse, **about)
    async def attention(asked: Annotated[Attention, Query()]) -> HTMLResponse:
        _, translator = service.find("translate", asked.model)
        run = service.worker.call(attention_page, translator, asked.text, asked.translation)
        try:
            page = await service.within(run)
        except Refusal as refusal:  # the frame of the explorer shows it
            refusal.headers["content-security-policy"] = "default-src 'none'; frame-ancestors 'self'"
            raise
        return HTMLResponse(page, headers={"content-security-policy": EXPLORER_POLICY})


def _add_classify(router, service, texts_type):
    class Classify(Asked):
        texts: texts_type = Field(examples=[["Return the first element of a list."]])
        attributions: bool = Field(False, description="Also tell which tokens the answers rest on.")

    @router.post("/classify", summary="Classify texts")
    async def classify(asked: Classify) -> Classified:
        name, classifier = service.find("classify", asked.model)
        work = service.worker.map(
            lambda texts: classified(classifier, texts), asked.texts, ("classify", name), service.max_batch
        )
        results = [Label(**fields) for fields in await service.within(work)]
        if asked.attributions:
            work = service.worker.map(lambda texts: [attributions(classifier, texts[0])], asked.texts)
            for result, scores in zip(results, await service.within(work), strict=True):
                result.attributions = [Attribution(token=token, score=score) for token, score in scores]
        return Classified(model=name, results=results)


def _add_complete(router, service, text_type):
    class Complete(Asked):
        prompt: text_type = Field(examples=["Return the"])
        max_new_tokens: Annotated[int, Field(ge=1, le=service.max_new_tokens), _whole] | None = Field(
            None, description="Default: 40, or what the model has room for."
        )
        temperature: float = Field(1.0, ge=0, le=10, description="0: the likeliest token, always.")
        top_p: float = Field(1.0, gt=0, le=1, description="Only the likeliest tokens that together reach it.")
        seed: Seed | None = Field(None, description="The same seed gives the same text.")
        stream: bool = Field(False, description="Send each piece as soon as it is there.")

    @router.post("/complete", summary="Continue a text", responses={200: {"content": EVENTS}})
    async def complete(asked: Complete) -> Completed:
        """As one answer, or as server-sent events: pieces as data, at last an event "end" or "error"."""
        name, generator = service.find("complete", asked.model)
        settings = asked.model_dump(exclude={"prompt", "model", "stream"})
        if asked.max_new_tokens is None:
            settings["max_new_tokens"] = min(40, service.max_new_tokens, generator.max_length - 1)
        pieces = service.pieces(lambda: generator.stream(asked.prompt, **settings))
        if not asked.stream:
            return Completed(model=name, completion=await service.whole(pieces))
        first = await anext(pieces, "")  # what is refused is refused before the answer begins
        return StreamingResponse(_events(first, pieces), media_type=next(iter(EVENTS)))


def _add_similar(router, service):
    class Words(BaseModel):
        model_config = ConfigDict(extra="forbid")
        word: Word = Field(examples=["list"])
        count: int = Field(10, ge=1, le=MAX_COUNT)
        model: ModelName = None

    @router.get("/similar", summary="Find the words nearest to a word")
    async def similar(asked: Annotated[Words, Query()]) -> Similar:
        name, vectors = service.find("similar", asked.model)
        if asked.word not in vectors:
            raise Refusal(404, f"word must be one of the {len(vectors):,} known; received {asked.word!r}.")
        pairs = await service.within(service.worker.call(vectors.nearest, asked.word, asked.count))
        near = [Neighbor(word=word, cosine=cosine) for word, cosine in pairs]
        return Similar(model=name, word=asked.word, similar=near)


_FIELDS = {"event": {"type": "string"}, "data": {"type": "string", "contentMediaType": "application/json"}}
EVENTS = {
    "text/event-stream": {
        "itemSchema": {"type": "object", "properties": _FIELDS, "required": ["data"]},
        "example": 'data: {"text": " first"}\n\nevent: end\ndata: {}\n\n',
    }
}


async def _events(first, pieces) -> AsyncIterator[str]:
    try:
        if first:
            yield f"data: {json.dumps({'text': first})}\n\n"
        async for piece in pieces:
            yield f"data: {json.dumps({'text': piece})}\n\n"
        yield "event: end\ndata: {}\n\n"
    except Refusal as refusal:
        yield f"event: error\ndata: {json.dumps(refusal.body)}\n\n"
    except Exception:
        logging.getLogger(__name__).exception("a completion failed")
        yield f"event: error\ndata: {json.dumps(FAULT.body)}\n\n"


def _refused(constant):
    raise ValueError(f"{constant} is no JSON number")
