"""`companion serve` under load: requests lost, latencies, what batching brings, and whether memory grows.

    python benchmarks/serving.py [--minutes 10] [--clients 8]

The server runs in a process of its own, on this machine's loopback address alone, with models of the widths
and depths of the chapters and random weights; so a translation or completion goes on to its greatest length.
CLIENTS tasks of this process send what a reader of the page might, one request after another: translations of
one to three texts by greedy and beam search, labels with and without attributions, completions whole and
streamed, a few of which are broken off, neighbors of words, explorers. A request is lost if no answer comes,
or not what was asked for.

Memory is the resident set of the server: at its start, after a tenth of the time (all was compiled before),
and at the end; the growth is from the second to the third. Throughput is measured before, with 16 clients
that send one text a request: with up to 16 texts a call, and with one, in turns of SECONDS.
"""

import argparse
import asyncio
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

SECONDS, ROUNDS, TOGETHER = 8.0, 3, 16
MOST = 100_000  # requests of a client
SENTENCES = (
    "Return the sum of the elements along an axis.",
    "Draw a line of the given color and width.",
    "Open a file and read all of its lines.",
    "Thursday, May 4, 2023",
    "The index must be smaller than the length of the array.",
    "Close the figure without showing it.",
)
WORDS = "return sum elements axis line color file read index array".split()
SIZES = {"num_heads": 4, "dropout": 0.0}


def save_models(folder):
    """Models of the sizes of chapters 02_1, 03_2, 03_4 and 05_2."""
    from companion import SubwordTokenizer, TextClassifier, WordVectors, gpt, transformer
    from companion.applications import TextGenerator, Translator

    tokenizer = SubwordTokenizer.train(SENTENCES, vocabulary_size=1000)
    size = tokenizer.vocabulary_size
    translation = transformer(size, size, max_length=48, model_dim=96, hidden_dim=384, num_layers=2, **SIZES)
    Translator(translation, tokenizer, tokenizer).save(folder / "translation")
    text = gpt(size, 64, model_dim=128, hidden_dim=512, num_layers=1, **SIZES)
    TextGenerator(text, tokenizer, 64).save(folder / "text")
    classifier = TextClassifier(num_layers=1, min_count=1, max_length=40)
    classifier.fit(SENTENCES * 2, ["a", "b"] * len(SENTENCES), epochs=1, progress=False)
    classifier.save(folder / "classifier")
    vectors = np.random.default_rng(0).normal(size=(8000, 100))
    WordVectors([*WORDS, *map(str, range(len(WORDS), 8000))], vectors).save(folder / "vectors.txt.gz")


def serve(folder, max_batch):
    """Serves until the standard input ends."""
    from companion.applications import find_applications, load_application
    from companion.serving import create_app, running

    applications = {name: load_application(path) for name, path in find_applications(folder).items()}
    with running(create_app(applications, warm_up=True, max_batch=max_batch)) as url:
        print(url, flush=True)
        sys.stdin.read()


class Server:
    """A server in a process of its own."""

    def __init__(self, folder, max_batch=TOGETHER):
        command = [sys.executable, __file__, "--serve", str(folder), "--max-batch", str(max_batch)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate(timeout=60)

    def memory(self):
        """Resident MiB."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


async def until_warm(client):
    """Asks for everything once, in all sizes, so that all is compiled."""
    for beam_size in (1, 4):
        for texts in (SENTENCES, SENTENCES[:4], *([text] for text in SENTENCES)):
            await client.post("/api/translate", json={"texts": list(texts), "beam_size": beam_size})
    for text in SENTENCES:
        await client.post("/api/classify", json={"texts": [text], "attributions": True})
        await client.post("/api/complete", json={"prompt": text, "max_new_tokens": 30})
        await client.get("/api/attention", params={"text": text})


async def stream(client, random, broken):
    """A completion in pieces; if broken, this client leaves after the first."""
    body = {"prompt": random.choice(SENTENCES), "max_new_tokens": 30, "stream": True}
    async with client.stream("POST", "/api/complete", json=body) as response:
        lines = [line async for line in _first(response.aiter_lines(), 1 if broken else MOST)]
    return response.status_code == 200 and (broken or "event: end" in lines)


async def _first(lines, most):
    count = 0
    async for line in lines:
        yield line
        if (count := count + 1) >= most:
            return


async def request(client, random, kind):
    """Sends one request; whether its answer is what was asked for."""
    texts = [str(text) for text in random.choice(SENTENCES, random.integers(1, 4), replace=False)]
    if kind in ("stream", "broken off"):
        return await stream(client, random, kind == "broken off")
    if kind in ("translate", "beam search"):
        body = {"texts": texts, "beam_size": 4 if kind == "beam search" else 1}
        answer = await client.post("/api/translate", json=body)
        return answer.status_code == 200 and len(answer.json()["translations"]) == len(texts)
    if kind in ("classify", "attributions"):
        body = {"texts": texts, "attributions": kind == "attributions"}
        answer = await client.post("/api/classify", json=body)
        return answer.status_code == 200 and len(answer.json()["results"]) == len(texts)
    if kind == "complete":
        answer = await client.post("/api/complete", json={"prompt": texts[0], "max_new_tokens": 30})
        return answer.status_code == 200 and "completion" in answer.json()
    if kind == "similar":
        answer = await client.get("/api/similar", params={"word": str(random.choice(WORDS)), "count": 10})
        return answer.status_code == 200 and len(answer.json()["similar"]) == 10
    answer = await client.get("/api/attention", params={"text": texts[0]})
    return answer.status_code == 200 and "<html" in answer.text[:200]


SHARES = {
    "translate": 0.25,
    "beam search": 0.05,
    "classify": 0.2,
    "attributions": 0.1,
    "complete": 0.08,
    "stream": 0.1,
    "broken off": 0.02,
    "similar": 0.15,
    "explorer": 0.05,
}


async def reader(client, seed, end, record):
    """One client: random requests until the end."""
    random, kinds, shares = np.random.default_rng(seed), list(SHARES), list(SHARES.values())
    for _ in range(MOST):
        if time.monotonic() >= end:
            return
        kind = str(random.choice(kinds, p=shares))
        started = time.monotonic()
        try:
            good = await request(client, random, kind)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            good = False
            print(f"lost: {kind}: {error!r}", flush=True)
        record[kind].append((time.monotonic() - started, good))


async def mixed(server, seconds, clients):
    """The record of a mixed load, {kind: [(seconds, good)]}, and the memory on the way, MiB."""
    record, memory = collections.defaultdict(list), [server.memory()]
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        await until_warm(client)
        started = time.monotonic()
        work = [asyncio.create_task(reader(client, i, started + seconds, record)) for i in range(clients)]
        for tenth in range(1, 11):
            await asyncio.sleep(max(0.0, started + seconds * tenth / 10 - time.monotonic()))
            memory.append(server.memory())
        await asyncio.gather(*work)
    return record, memory


async def throughput(server, path):
    """Texts a second, of TOGETHER clients that send one a request."""
    done = 0

    async def ask(client, end):
        nonlocal done
        for i in range(MOST):
            if time.monotonic() >= end:
                return
            body = {"texts": [SENTENCES[i % len(SENTENCES)]]}
            answer = await client.post(path, json=body)
            answer.raise_for_status()
            done += 1

    limits = httpx.Limits(max_connections=TOGETHER)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits, trust_env=False) as client:
        await until_warm(client)
        started = time.monotonic()
        await asyncio.gather(*(ask(client, started + SECONDS) for _ in range(TOGETHER)))
    return done / (time.monotonic() - started)


def compare(folder, rounds):
    """Prints the throughputs with batching and without, and their ratio."""
    with Server(folder) as together, Server(folder, 1) as alone:
        for path in ("/api/translate", "/api/classify"):
            speeds = [[asyncio.run(throughput(s, path)) for s in (together, alone)] for _ in range(rounds)]
            batched, single = np.median(speeds, axis=0)
            ratios = [one / other for one, other in speeds]
            print(
                f"{path:15} {batched:7.1f} texts/s, one at a time {single:7.1f}; ratio "
                f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


def report(record, memory):
    """Prints what happened; returns how many requests were lost."""
    total = sum(map(len, record.values()))
    lost = sum(not good for entries in record.values() for _, good in entries)
    print(f"\n{total} requests, {lost} lost")
    print(f"{'milliseconds':12} {'count':>6} {'p50':>7} {'p95':>7} {'p99':>7} {'max':>7}")
    for kind in SHARES:
        if times := [1000 * seconds for seconds, _ in record[kind]]:
            numbers = " ".join(f"{value:7.0f}" for value in np.percentile(times, [50, 95, 99, 100]))
            print(f"{kind:12} {len(times):6} {numbers}")
    start, warm, end = memory[0], memory[1], memory[-1]
    said = f"{start:.0f} MiB at the start, {warm:.0f} after a tenth, {end:.0f} at the end"
    print(f"memory: {said}; growth {end - warm:+.1f} MiB")
    print("on the way:", " ".join(f"{value:.0f}" for value in memory))
    return lost


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the throughputs")
    parser.add_argument("--json", type=Path, help="a file for the record")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--max-batch", type=int, default=TOGETHER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if options.serve:
        return serve(options.serve, options.max_batch)
    with tempfile.TemporaryDirectory() as folder:
        save_models(Path(folder))
        if options.rounds:
            compare(folder, options.rounds)
        with Server(folder) as server:
            record, memory = asyncio.run(mixed(server, 60 * options.minutes, options.clients))
    lost = report(record, memory)
    if options.json:
        options.json.write_text(json.dumps({"record": record, "memory": memory}), encoding="utf-8")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
