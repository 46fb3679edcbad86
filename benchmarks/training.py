"""Training speed of `companion.transformer` and `companion.gpt` beside KerasHub, Keras and PyTorch.

    python benchmarks/training.py [--rounds 7] [--case gpt] [--quick]

The peers build the same architectures of KerasHub's blocks, of keras.layers.MultiHeadAttention, of PyTorch's
nn.Transformer and of its scaled_dot_product_attention; peers/train.py holds them. All have as many parameters
and train on the same batches with the same loss, dropout and optimizer, in float32 where no other type is
named. Given equal weights, KerasHub's models and ours must compute the same: that is checked first.

Each contestant has a process of its own, for its own peak of memory and first step (which compiles); they
take turns, and of a round the fastest of STEPS steps counts. A time's ratio is to companion's of the same
round: above 1, companion is faster. The ceiling is the best rate at which TensorFlow or PyTorch multiplies
float32 matrices in that round, of 2048 x 2048 or of the width of the model; share is what part of it the
matrix products of a step, counted by formula, come to. Rows named "products" time these products alone: no
step can be faster than the sum of its parts.

PyTorch's rows need the environment of `make test-backends`. About 12 minutes on two cores, which should have
nothing else to do.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

STEPS = 3  # of each in a round
PEERS = Path(__file__).parent / "peers"
TORCH = Path(f"{sys.prefix}-backends") / "bin" / "python"
CASES = {
    "seq2seq": ("encoder-decoder, width 256, 4 + 4 layers, length 64, batch 32, 8,000 words", 32 * 64),
    "gpt": ("decoder, width 256, 6 layers, length 256, batch 16, 8,000 words, tied", 16 * 256),
}
CONTESTANTS = (
    *("companion", "companion, plain loss", "companion, bfloat16", "KerasHub", "Keras"),
    *("PyTorch", "PyTorch, compiled", "PyTorch, bfloat16"),
)
PRODUCTS = "products, TensorFlow", "products, PyTorch"


def command(name, case, steps):
    """How to start a contestant, in its environment."""
    python = TORCH if "PyTorch" in name else sys.executable
    return [str(python), str(PEERS / "train.py"), name, case, str(steps)]


def race(case, rounds, steps):
    """What each contestant reports: {name: {"ready": numbers, "rounds": [numbers]}, or {"failed": why}}."""
    names = [name for name in (*CONTESTANTS, *PRODUCTS) if TORCH.exists() or "PyTorch" not in name]
    entries = [{"name": name, "command": command(name, case, steps)} for name in names]
    arguments = [sys.executable, str(PEERS / "race.py"), str(rounds)]
    finished = subprocess.run(
        arguments, input=json.dumps(entries), stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(finished.stdout)


def column(result, key):
    """A number of each round: (rounds,) array."""
    return np.array([turn[key] for turn in result["rounds"]])


def middle(values, form):
    """The median and, in brackets, the least and the greatest."""
    return f"{np.median(values):{form}} ({values.min():{form}} to {values.max():{form}})"


def lines(results, tokens):
    """The table, line by line."""
    products = [results[name] for name in PRODUCTS if "rounds" in results.get(name, {})]
    rates = {
        key: np.max([column(result, key) for result in products], axis=0) for key in ("square", "narrow")
    }
    ceiling, operations = np.maximum(*rates.values()), products[0]["rounds"][0]["operations"]
    for key, values in rates.items():
        yield f"{key} matrix product: {middle(values / 1e9, '.0f')} thousand million operations a second"
    head = f"{'':24} {'parameters':>11} {'tokens/s':>26} {'ratio':>22} {'share':>6}"
    yield f"{head} {'first':>7} {'memory':>10} {'loss':>6}"
    best = column(results["companion"], "seconds")
    for name, result in results.items():
        if "failed" in result:
            yield f"{name:24} not measured: {result['failed']}"
            continue
        seconds, ready, last = column(result, "seconds"), result["ready"], result["rounds"][-1]
        share = np.median(operations / (seconds * ceiling))
        line = f"{name:24} {ready.get('parameters', 0):11,} {middle(tokens / seconds, ',.0f'):>26}"
        line += f" {middle(seconds / best, '.2f'):>22} {share:6.0%}"
        if "loss" in last:
            line += f" {ready['first']:5.1f} s {last['memory']:6,.0f} MiB {last['loss']:6.3f}"
        yield line


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--case", choices=CASES, action="append", help="only this one")
    parser.add_argument("--quick", action="store_true", help="two rounds of one step: to see that it runs")
    arguments = parser.parse_args()
    rounds, steps = (2, 1) if arguments.quick else (arguments.rounds, STEPS)
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
    if not TORCH.exists():
        print("PyTorch is not installed: run make test-backends once.")
    for case in arguments.case or CASES:
        description, tokens = CASES[case]
        print(f"\n{case}: {description}", flush=True)
        subprocess.run(command("check", case, steps), stderr=subprocess.DEVNULL, check=True)
        print("\n".join(lines(race(case, rounds, steps), tokens)), flush=True)


if __name__ == "__main__":
    main()
