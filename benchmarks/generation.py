"""Decoding speed of `companion.generate` beside KerasHub, the library transformers and PyTorch by hand.

    python benchmarks/generation.py [--rounds 7] [--quick]

All continue the same prompts of 32 tokens by 128 more, greedily, with a GPT-2 of the same sizes (width 256, 6
layers, 8,000 words) and random weights that nothing ends early; peers/decode.py holds them. By hand means: as
little as PyTorch needs, with a cache as long as it will be. Checked: `stream` writes what `generate` writes,
and PyTorch by hand what transformers writes with the same weights. That companion's GPT-2 computes what
transformers' does is a matter of the tests.

Each contestant has a process of its own, for its own peak of memory and first run (which compiles); they take
turns, and of a round the fastest of TURNS runs counts. A time's ratio is to companion's of the same round:
above 1, companion is faster.

The rows of transformers and PyTorch need the environment of `make test-backends`, KerasHub's on JAX that of
`make test`. About 6 minutes on two cores, which should have nothing else to do.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

TURNS, TOKENS = 3, 128
PEERS = Path(__file__).parent / "peers"
TORCH = Path(f"{sys.prefix}-backends") / "bin" / "python"
OF_TORCH = "transformers", "PyTorch by hand"
CONTESTANTS = (
    *("companion", "companion, streaming"),
    *("KerasHub, TensorFlow", "KerasHub, TensorFlow, XLA", "KerasHub, JAX"),
    *OF_TORCH,
)
SAME = ("companion", "companion, streaming"), OF_TORCH


def race(batch_size, rounds, turns):
    """What each contestant reports: {name: {"ready": numbers, "rounds": [numbers]}, or {"failed": why}}."""
    entries = []
    for name in CONTESTANTS:
        python = TORCH if name in OF_TORCH else Path(sys.executable)
        command = [str(python), str(PEERS / "decode.py"), name, str(batch_size), str(turns)]
        entries += [{"name": name, "command": command}] if python.exists() else []
    arguments = [sys.executable, str(PEERS / "race.py"), str(rounds)]
    finished = subprocess.run(
        arguments, input=json.dumps(entries), stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(finished.stdout)


def middle(values, form):
    """The median and, in brackets, the least and the greatest."""
    return f"{np.median(values):{form}} ({values.min():{form}} to {values.max():{form}})"


def lines(results, batch_size):
    """The table, line by line."""
    yield f"{'':26} {'parameters':>10} {'tokens/s':>24} {'ratio':>22} {'first':>7} {'memory':>10}"
    measured = {name: result for name, result in results.items() if "rounds" in result}
    seconds = {name: np.array([x["seconds"] for x in result["rounds"]]) for name, result in measured.items()}
    for name, result in results.items():
        if "failed" in result:
            yield f"{name:26} not measured: {result['failed']}"
            continue
        speed = middle(batch_size * TOKENS / seconds[name], ",.0f")
        ratio = middle(seconds[name] / seconds["companion"], ".2f")
        first, memory = result["ready"]["first"], result["rounds"][-1]["memory"]
        line = f"{name:26} {result['ready']['parameters']:10,} {speed:>24} {ratio:>22}"
        yield f"{line} {first:5.1f} s {memory:6,.0f} MiB"


def check(results):
    """That those with the same weights wrote the same, but where two words were as likely within rounding."""
    for pair in SAME:
        if all("ready" in results.get(name, {}) for name in pair):
            one, other = (np.array(results[name]["ready"]["written"]) for name in pair)
            assert (one == other).mean() > 0.95, f"{' and '.join(pair)} wrote other tokens"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two rounds of one run: to see that it works")
    arguments = parser.parse_args()
    rounds, turns = (2, 1) if arguments.quick else (arguments.rounds, TURNS)
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
    if not TORCH.exists():
        print("PyTorch and transformers are not installed: run make test-backends once.")
    for batch_size in (1, 8):
        print(f"\n{batch_size} prompts of 32 tokens, {TOKENS} more", flush=True)
        results = race(batch_size, rounds, turns)
        check(results)
        print("\n".join(lines(results, batch_size)), flush=True)


if __name__ == "__main__":
    main()
