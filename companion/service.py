"""What the server does with loaded applications, however it is asked: finds them, runs them within limits."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from companion.base import check_at_least
from companion.batching import END, Busy, Worker
from companion.guard import Refusal

MAX_COUNT = 100  # most neighbors of a word
RETRY = {"retry-after": "2"}


class Task(NamedTuple):
    """Something that an application can do.

    method: What an application that does it has.
    noun: What such an application is called.
    chapter: The chapter that leaves one.
    """

    method: str
    noun: str
    chapter: str


TASKS = {
    "translate": Task("translate", "translator", "03_2_translation"),
    "classify": Task("predict_proba", "text classifier", "05_2_repaired"),
    "complete": Task("stream", "text generator", "03_4_pretraining"),
    "similar": Task("nearest", "set of word vectors", "02_1_word_vectors"),
}


def task_of(application: Any) -> str:
    """The name in TASKS of what an application does.

    Raises:
        TypeError: It does none of them.
    """
    for name, task in TASKS.items():
        if hasattr(application, task.method):
            return name
    needs = ", ".join(task.method for task in TASKS.values())
    raise TypeError(f"an application must have one of {needs}; received {type(application).__name__}.")


class Service:
    """Applications by task, the thread that they share, and what may be asked of them.

    Args:
        applications: {name: application}; of several for one task the first serves, if none is named.
        max_length: Most characters of a text, >= 1.
        timeout: Seconds that an answer, or the next piece of a stream, may take, > 0.
        max_texts: Most texts in a request.
        max_batch: Most texts that are computed together.
        max_new_tokens: Most tokens written after a prompt.
        max_streams: Most completions under way.
        max_waiting: Most texts that wait.
    Raises:
        TypeError, ValueError: What an application does is unknown; a limit is out of range.
    """

    def __init__(
        self,
        applications: Mapping[str, Any],
        max_length: int = 1000,
        timeout: float = 30.0,
        max_texts: int = 16,
        max_batch: int = 16,
        max_new_tokens: int = 200,
        max_streams: int = 8,
        max_waiting: int = 64,
    ):
        check_at_least(1, max_length=max_length, max_texts=max_texts, max_batch=max_batch)
        check_at_least(1, max_new_tokens=max_new_tokens, max_streams=max_streams)
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds; received timeout={timeout}.")
        self.applications = dict(applications)
        self.tasks = {name: task_of(application) for name, application in self.applications.items()}
        self.max_length, self.timeout, self.max_texts = max_length, timeout, max_texts
        self.max_batch, self.max_streams = max_batch, max_streams
        own = [its.max_length - 1 for its in self.applications.values() if task_of(its) == "complete"]
        self.max_new_tokens = min(max_new_tokens, max(own, default=max_new_tokens))
        self.worker, self.streams = Worker(max(max_waiting, max_texts)), 0

    @property
    def max_body(self) -> int:
        """Bytes that the largest allowed request may take; a character of JSON takes at most 12."""
        return 12 * self.max_length * self.max_texts + 4096

    def find(self, task: str, name: str | None) -> tuple[str, Any]:
        """The name of an application for a task, and the application.

        Raises:
            Refusal: 404, there is none; it says which chapter makes one.
        """
        names = [known for known, its in self.tasks.items() if its == task]
        if not names:
            raise Refusal(404, absent(task))
        if name is not None and name not in names:
            raise Refusal(404, f"model must be one of {', '.join(names)}; received {name!r}.")
        name = names[0] if name is None else name
        return name, self.applications[name]

    async def within(self, work: Awaitable) -> Any:
        """Waits for work, as long as is allowed.

        Raises:
            Refusal: 503, too much is waiting; 504, it took too long; 422, the application did not accept it.
        """
        try:
            async with asyncio.timeout(self.timeout):
                return await work
        except Busy as error:
            raise Refusal(503, str(error), RETRY) from error
        except TimeoutError as error:
            raise Refusal(504, f"The answer took more than {self.timeout:g} seconds.", RETRY) from error
        except ValueError as error:
            raise Refusal(422, str(error)) from error

    async def pieces(self, start: Callable[[], Iterator[str]]) -> AsyncIterator[str]:
        """Pieces of a text, one at a time, so that other requests are served in between.

        Args:
            start: Returns the iterator that writes them.
        Raises:
            Refusal: As `within`; 503 also where too many are under way.
        """
        if self.streams >= self.max_streams:
            raise Refusal(503, f"At most {self.max_streams} completions may be under way.", RETRY)
        self.streams += 1
        try:
            items = self.worker.iterate(start)
            while (piece := await self.within(anext(items, END))) is not END:
                yield piece
        finally:
            self.streams -= 1

    async def whole(self, pieces: AsyncIterator[str]) -> str:
        """A text from its pieces, within the time of one answer.

        Raises:
            Refusal: As `within`.
        """

        async def joined():
            return "".join([piece async for piece in pieces])

        return await self.within(joined())

    async def warm_up(self) -> None:
        """Has each application compute something, for the first time takes longest."""
        first = {
            "translate": lambda translator: translator.translate(["a"]),
            "complete": lambda generator: list(generator.stream("a", max_new_tokens=1)),
            "classify": lambda classifier: classifier.predict_proba(["a"]),
            "similar": len,
        }
        for name, application in self.applications.items():
            try:
                await self.worker.call(first[self.tasks[name]], application, limited=False)
            except Exception:
                logging.getLogger(__name__).exception("warming up %s failed", name)


def absent(task: str) -> str:
    """What to do where no application does a task."""
    noun, chapter = TASKS[task].noun, TASKS[task].chapter
    return f"No {noun} is loaded: run chapter {chapter}, which leaves one, and start companion serve again."


def classified(classifier: Any, texts: list[str]) -> list[dict]:
    """The fields "label" and "probabilities" of each text."""
    rows, names = classifier.predict_proba(texts), [str(name) for name in classifier.classes]
    return [
        {"label": label, "probabilities": dict(zip(names, map(float, row), strict=True))}
        for label, row in zip(classifier.decide(rows), rows, strict=True)
    ]


def attributions(classifier: Any, text: str) -> list[tuple[str, float]]:
    """The tokens that a classifier reads of a text; how far its answer's probability falls without each.

    The numbers of `occlusion` with the id of unknown words in a token's place, but in calls of BATCH rows, a
    shape that the classifier has compiled.
    """
    from companion.classification import BATCH

    tokenizer = classifier.tokenizer
    (ids,) = tokenizer.encode_batch([text], length=classifier.max_length)
    places = np.flatnonzero(ids != tokenizer.padding_id)
    rows = np.repeat(ids[None], -(-(len(places) + 1) // BATCH) * BATCH, axis=0)
    rows[range(len(places)), places] = tokenizer.unknown_id  # the last row at least stays whole
    answers = [classifier.model.predict_on_batch(some) for some in np.split(rows, len(rows) // BATCH)]
    (label,) = classifier.decide(answers[-1][-1:])
    numbers = np.concatenate(answers)[:, classifier.classes.index(label)]
    falls = (numbers[-1] - numbers[: len(places)]).tolist()
    return list(zip(tokenizer.tokens(ids[places]), falls, strict=True))


def attention_page(translator: Any, text: str, translation: str | None) -> str:
    """A whole page, the explorer of what each token of a translation attends to."""
    from companion.explorer import attention_explorer

    found = translator.attention(text, translation)
    tokens = found.source_tokens, found.target_tokens
    return attention_explorer(found.weights, *tokens, title=text, view="steps").html
