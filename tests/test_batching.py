"""One thread for many callers: shared calls, turns, limits, failures, callers that leave, a clean end."""

import asyncio
import threading
import time

import pytest

from companion.batching import Busy, Worker

HOUR = 3600.0


class Recorder:
    """Doubles numbers; remembers its calls; can be held; fails for negative numbers."""

    def __init__(self):
        self.calls, self.threads, self.gate = [], set(), threading.Event()
        self.gate.set()

    def __call__(self, items):
        self.threads.add(threading.current_thread())
        self.calls.append(list(items))
        assert self.gate.wait(10)
        if any(item < 0 for item in items):
            raise ValueError(f"items must be at least 0; received {items}.")
        return [2 * item for item in items]


@pytest.fixture
def double():
    return Recorder()


def played(scene, **settings):
    """Runs a scene with a worker, in a loop of its own, and not for long."""

    async def run():
        async with asyncio.timeout(10):
            async with Worker(**settings) as worker:
                return await scene(worker)

    return asyncio.run(run())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_items_that_wait_together_share_calls_and_keep_their_results(double):
    async def scene(worker):
        return await asyncio.gather(*(worker.map(double, [i], "a", max_batch=8) for i in range(20)))

    assert played(scene, patience=0.05) == [[2 * i] for i in range(20)]
    assert [len(call) for call in double.calls] == [8, 8, 4]
    assert sum(double.calls, []) == list(range(20))
    assert len(double.threads) == 1 and threading.main_thread() not in double.threads


def test_what_arrives_during_a_call_shares_the_next_one(double):
    async def scene(worker):
        double.gate.clear()
        first = asyncio.create_task(worker.map(double, [0], "a", max_batch=8))
        await until(lambda: double.calls)
        rest = [asyncio.create_task(worker.map(double, [i], "a", max_batch=8)) for i in (1, 2, 3)]
        await until(lambda: worker.waiting == 3)
        double.gate.set()
        await asyncio.gather(first, *rest)

    played(scene, patience=0)
    assert double.calls == [[0], [1, 2, 3]]


def test_a_full_call_does_not_wait(double):
    async def scene(worker):
        await worker.map(double, [1, 2, 3, 4], "a", max_batch=4)

    played(scene, patience=HOUR)
    assert double.calls == [[1, 2, 3, 4]]


def test_a_call_that_nobody_shares_does_not_wait(double):
    async def scene(worker):
        return await worker.map(double, [1, 2]), await worker.call(max, 3, 4)

    assert played(scene, patience=HOUR) == ([2, 4], 4)
    assert double.calls == [[1], [2]]


def test_different_keys_share_no_call(double):
    async def scene(worker):
        return await asyncio.gather(*(worker.map(double, [i], i % 2, max_batch=8) for i in range(6)))

    played(scene)
    assert double.calls == [[0, 2, 4], [1, 3, 5]]


def test_a_bad_item_does_not_spoil_its_call(double):
    async def scene(worker):
        work = (worker.map(double, [i], "a", max_batch=8) for i in (1, -1, 2))
        return await asyncio.gather(*work, return_exceptions=True)

    one, bad, two = played(scene)
    assert (one, two) == ([2], [4]) and double.calls == [[1, -1, 2], [1], [-1], [2]]
    assert isinstance(bad, ValueError) and "received [-1]" in str(bad)


@pytest.mark.parametrize("wrong", [lambda items: [], lambda items: next(iter(())), lambda items: None])
def test_a_function_that_breaks_its_promise_fails_alone(wrong, double):
    async def scene(worker):
        with pytest.raises((RuntimeError, TypeError)):
            await worker.map(wrong, [1], "wrong")
        return await worker.map(double, [1])

    assert played(scene) == [2]


def test_more_than_may_wait_is_refused_whole(double):
    async def scene(worker):
        double.gate.clear()
        running = asyncio.create_task(worker.map(double, [0]))
        await until(lambda: double.calls)
        waiting = asyncio.create_task(worker.map(double, [1, 2]))
        await until(lambda: worker.waiting == 2)
        with pytest.raises(Busy, match="2 texts are waiting, at most 3 may"):
            await worker.map(double, [3, 4])
        unlimited = asyncio.create_task(worker.map(double, [5, 6], limited=False))
        await until(lambda: worker.waiting == 4)
        double.gate.set()
        return await asyncio.gather(running, waiting, unlimited)

    assert played(scene, max_waiting=3) == [[0], [2, 4], [10, 12]]
    assert sorted(sum(double.calls, [])) == [0, 1, 2, 5, 6]


def test_a_caller_that_leaves_takes_its_items_along(double):
    async def scene(worker):
        double.gate.clear()
        running = asyncio.create_task(worker.map(double, [0]))
        await until(lambda: double.calls)
        leaves = asyncio.create_task(worker.map(double, [1, 2], "a", max_batch=8))
        stays = asyncio.create_task(worker.map(double, [3], "a", max_batch=8))
        await until(lambda: worker.waiting == 3)
        leaves.cancel()
        running.cancel()  # its call goes on, and what it gives is dropped
        double.gate.set()
        return await stays

    assert played(scene) == [6]
    assert double.calls == [[0], [3]]


def test_a_timeout_frees_the_caller_and_not_the_thread(double):
    async def scene(worker):
        double.gate.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await worker.map(double, [1])
        double.gate.set()
        return await worker.map(double, [2])

    assert played(scene) == [4]


def test_a_long_iteration_lets_others_pass(double):
    async def scene(worker):
        pieces = []
        async for piece in worker.iterate(lambda: iter(range(5))):
            pieces.append(piece)
            if piece < 2:
                await worker.map(double, [piece])
        return pieces

    assert played(scene) == [0, 1, 2, 3, 4]
    assert double.calls == [[0], [1]]


def test_two_iterations_take_turns():
    order = []

    def slowly(name):
        for i in range(5):
            time.sleep(0.002)
            order.append(name)
            yield i

    async def scene(worker):
        async def read(name):
            return [piece async for piece in worker.iterate(lambda: slowly(name))]

        return await asyncio.gather(read("a"), read("b"))

    assert played(scene) == [[0, 1, 2, 3, 4]] * 2
    assert "".join(order) == "ab" * 5


def test_an_iteration_ends_with_its_error():
    def breaks():
        yield 1
        raise ValueError("no more")

    async def scene(worker):
        pieces = []
        with pytest.raises(ValueError, match="no more"):
            async for piece in worker.iterate(breaks):
                pieces.append(piece)
        return pieces

    assert played(scene) == [1]


def test_at_the_end_what_runs_is_waited_for_and_what_waits_is_refused(double):
    async def scene():
        async with Worker() as worker:
            double.gate.clear()
            running = asyncio.create_task(worker.map(double, [0]))
            await until(lambda: double.calls)
            waiting = asyncio.create_task(worker.map(double, [1]))
            await until(lambda: worker.waiting == 1)
            asyncio.get_running_loop().call_later(0.02, double.gate.set)
        with pytest.raises(Busy, match="closing"):
            await waiting
        with pytest.raises(Busy, match="closing"):
            await worker.map(double, [2])
        return await running

    assert asyncio.run(scene()) == [0]
    assert double.calls == [[0]]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("companion-worker")]


@pytest.mark.parametrize("settings", [{"max_waiting": 0}, {"patience": -1}])
def test_settings_out_of_range_are_refused(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name} must be at least .*received {name}={value}"):
        Worker(**settings)


def test_a_batch_of_none_is_refused(double):
    with pytest.raises(ValueError, match="max_batch must be at least 1; received max_batch=0"):
        played(lambda worker: worker.map(double, [1], max_batch=0))
