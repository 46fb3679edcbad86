"""Greedy decoding by `companion.generate` with its cache, beside itself without one and beside KerasHub.

    python benchmarks/generation.py

KerasHub's BartSeq2SeqLM has the same sizes and also decodes with a cache in one compiled loop; it differs in
that it normalizes last, uses GELU, learned positions and one embedding for source, target and logits. The
weights are random, so that nobody stops before LENGTH tokens (checked). All take turns; a round's ratio is a
time to that of `generate` with its cache: above 1, that one is faster. 1 to 2 minutes on two cores.
"""

import argparse
import time

import keras
import keras_hub
import numpy as np

import companion

VOCABULARY, LENGTH, BEGIN, END = 1000, 64, 2, 3
SIZES = {"model_dim": 128, "num_heads": 4, "hidden_dim": 512, "num_layers": 2}


def kerashub_generate(source_tokens):
    """A function that writes LENGTH tokens with KerasHub's greedy sampler."""
    backbone = keras_hub.models.BartBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=SIZES["num_layers"],
        num_heads=SIZES["num_heads"],
        hidden_dim=SIZES["model_dim"],
        intermediate_dim=SIZES["hidden_dim"],
        max_sequence_length=LENGTH + 1,
    )
    model = keras_hub.models.BartSeq2SeqLM(backbone)
    model.compile(sampler="greedy")
    target_tokens = np.full((len(source_tokens), LENGTH + 1), [BEGIN] + [0] * LENGTH, "int32")
    inputs = {
        "encoder_token_ids": source_tokens,
        "encoder_padding_mask": np.ones_like(source_tokens),
        "decoder_token_ids": target_tokens,
        "decoder_padding_mask": (target_tokens != 0).astype("int32"),
    }
    return lambda: model.generate(inputs, stop_token_ids=None)["decoder_token_ids"][:, 1:]


def seconds_each(actions, rounds):
    """Seconds of each action in each round: {name: (rounds,) array}. They take turns."""
    seconds = {name: np.zeros(rounds) for name in actions}
    for i in range(rounds):
        for name, action in actions.items():
            started = time.perf_counter()
            written = action()
            seconds[name][i] = time.perf_counter() - started
            assert written.shape[1] == LENGTH, f"{name} stopped early: {written.shape}"
    return seconds


def measure(batch_size, rounds):
    """Lines of the table, one for each way to decode."""
    keras.utils.set_random_seed(0)
    model = companion.transformer(VOCABULARY, VOCABULARY, max_length=LENGTH, **SIZES)
    source_tokens = np.random.default_rng(0).integers(4, VOCABULARY, (batch_size, LENGTH), dtype="int32")
    settings = {"begin_id": BEGIN, "end_id": END, "max_length": LENGTH}
    actions = {
        "cached": lambda: companion.generate(model, source_tokens, **settings),
        "uncached": lambda: companion.generate(model, source_tokens, use_cache=False, **settings),
        "KerasHub": kerashub_generate(source_tokens),
    }
    seconds_each(actions, 1)  # compiles
    seconds = seconds_each(actions, rounds)
    for name, values in seconds.items():
        ratios = values / seconds["cached"]
        spread = f"({ratios.min():.2f} to {ratios.max():.2f})"
        yield f"{batch_size:5} {name:>8} {1e3 * np.median(values):7.0f} ms {np.median(ratios):7.2f} {spread}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, KerasHub {keras_hub.__version__}")
    print(f"Decoding {LENGTH} tokens, greedy; ratio: to cached, median of {rounds} rounds (min to max)")
    print("batch decoding       time   ratio")
    for batch_size in (1, 32):
        for line in measure(batch_size, rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
