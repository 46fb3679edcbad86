"""One thread for many callers: what they ask for at about the same time is computed in one call."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from companion.base import check_at_least

END = object()  # what an iterator has no more of


class Busy(Exception):
    """More is waiting than the worker takes on, or it is closing."""


class _Group(NamedTuple):
    """Items that may share a call."""

    function: Callable
    max_batch: int
    due: float  # the time until which a call waits for more of them
    entries: deque


class Worker:
    """A thread that runs one call at a time for the tasks of one event loop: models are not asked to do more.

    Items under one key that wait at the same time share a call. Keys take turns, so that long work which is
    given piece by piece lets the others pass. If a shared call fails, each of its items is computed alone.

    Args:
        max_waiting: Most items that wait, >= 1.
        patience: Seconds that a shared call waits for more items, if there is nothing else to do, >= 0.
    Raises:
        ValueError: An argument is out of range.
    Used as `async with Worker() as worker`; at the end what waits is refused and what runs is waited for.
    """

    def __init__(self, max_waiting: int = 64, patience: float = 0.005):
        check_at_least(1, max_waiting=max_waiting)
        check_at_least(0, patience=patience)
        self.max_waiting, self.patience = max_waiting, patience
        self._groups: dict[Hashable, _Group] = {}  # in the order of their turns
        self._open = False

    @property
    def waiting(self) -> int:
        """How many items wait, without those whose callers have gone."""
        return sum(not future.done() for group in self._groups.values() for _, future in group.entries)

    async def __aenter__(self) -> "Worker":
        self._thread = ThreadPoolExecutor(1, "companion-worker")
        self._open, self._arrived = True, asyncio.Event()
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_):
        self._open = False
        for group in self._groups.values():
            for _, future in group.entries:
                if not future.done():
                    future.set_exception(Busy("The server is closing."))
        self._groups.clear()
        self._arrived.set()
        await self._running
        self._thread.shutdown()

    async def map(
        self,
        function: Callable[[list], Sequence],
        items: Sequence,
        key: Hashable = None,
        max_batch: int = 1,
        limited: bool = True,
    ) -> list:
        """Computes something of each item, together with what others ask for under the same key.

        Args:
            function: Called in the thread with a list of items; returns a result for each.
            items: All of them wait, or none.
            key: The same for functions that do the same; None: these items share calls with no others.
            max_batch: Most items in a call, >= 1.
            limited: Whether max_waiting counts.
        Returns:
            The results. A caller that is canceled takes its waiting items along.
        Raises:
            Busy: Too many wait, or the worker is closed.
            Exception: What function raised for one of the items.
        """
        check_at_least(1, max_batch=max_batch)
        if not self._open:
            raise Busy("The server is closing.")
        if limited and self.waiting + len(items) > self.max_waiting:
            raise Busy(f"{self.waiting} texts are waiting, at most {self.max_waiting} may; try again soon.")
        entries = [(item, asyncio.get_running_loop().create_future()) for item in items]
        self._add(object() if key is None else key, function, max_batch, entries)
        try:
            return await asyncio.gather(*(future for _, future in entries))
        finally:
            for _, future in entries:
                future.cancel()  # of those that are done this changes nothing

    async def call(self, function: Callable, *arguments: Any, limited: bool = True) -> Any:
        """Runs one call for one caller.

        Args:
            function, arguments: What is called in the thread.
            limited, and Raises: As `map`.
        Returns:
            What function returns.
        """
        (result,) = await self.map(lambda _: [function(*arguments)], [None], limited=limited)
        return result

    async def iterate(self, start: Callable[[], Iterator]) -> Any:
        """Gives what an iterator gives, one item a call, so that others are served in between.

        Args:
            start: Called in the thread, returns the iterator.
        Returns:
            An asynchronous iterator.
        Raises:
            Busy: As `map`, for the first item only.
        """
        iterator = await self.call(start)
        while (item := await self.call(next, iterator, END, limited=False)) is not END:
            yield item

    def _add(self, key, function, max_batch, entries):
        patience = self.patience if max_batch > 1 else 0
        due = asyncio.get_running_loop().time() + patience
        group = self._groups.setdefault(key, _Group(function, max_batch, due, deque()))
        group.entries.extend(entries)
        self._arrived.set()

    async def _run(self):
        while self._open:
            if not self._groups:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            group = next(iter(self._groups.values()))
            left = group.due - asyncio.get_running_loop().time()
            if len(self._groups) == 1 and len(group.entries) < group.max_batch and left > 0:
                await asyncio.sleep(left)
            elif entries := self._take():
                await self._compute(group.function, entries)

    def _take(self):
        """The items of the next call; what their group has left goes to the end of the queue."""
        key = next(iter(self._groups))
        group, entries = self._groups.pop(key), []
        while group.entries and len(entries) < group.max_batch:
            entry = group.entries.popleft()
            entries += [entry] if not entry[1].done() else []  # its caller has gone
        if group.entries:
            self._groups[key] = group
        return entries

    async def _compute(self, function, entries):
        loop, items = asyncio.get_running_loop(), [item for item, _ in entries]
        try:
            results = await loop.run_in_executor(self._thread, _checked, function, items)
        except Exception as error:
            if len(entries) > 1 and self._open:
                for entry in entries:
                    self._add(object(), function, 1, [entry])
                return
            results = [error] * len(entries)
        for (_, future), result in zip(entries, results, strict=True):
            if not future.done():
                failed = isinstance(result, Exception)
                future.set_exception(result) if failed else future.set_result(result)


def _checked(function, items):
    try:
        results = list(function(items))
    except StopIteration as error:  # which no future can hold
        raise RuntimeError("function must return a result for each item; it raised StopIteration.") from error
    if len(results) != len(items):
        raise RuntimeError(f"function must return {len(items)} results; received {len(results)}.")
    return results
