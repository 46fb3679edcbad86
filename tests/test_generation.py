"""Generation: with a cache as without, and as a slow search in NumPy that asks for one token at a time."""

import functools
import itertools

import keras
import numpy as np
import pytest
from keras import ops

from companion import generate, lstm_seq2seq, transformer
from companion.generation import STRATEGIES, _cached, _compile, _Settings, _uncached

pytestmark = [
    pytest.mark.backend,
    pytest.mark.filterwarnings("ignore:You are using a softmax over axis"),
]
V, BEGIN, END = 12, 2, 3
SOURCE = np.array([[5, 3, 8, 9, 6], [4, 7, 0, 0, 0], [9, 9, 4, 0, 0], [10, 1, 5, 8, 0]], "int32")


@functools.lru_cache
def model(seed):
    """A transformer with random matrices, large enough for its targets to differ in tokens and in length."""
    made = transformer(12, V, 16, 8, 2, 16, 2)
    generator = np.random.default_rng(seed)
    made.set_weights(
        [
            generator.standard_normal(w.shape).astype("float32") if w.ndim > 1 else w
            for w in made.get_weights()
        ]
    )
    return made


def chain(logits):
    """A model whose next token depends on the last one only: row i of logits scores what follows i."""
    source = keras.Input((None,), dtype="int32", name="source_tokens")
    target = keras.Input((None,), dtype="int32", name="target_tokens")
    table = keras.layers.Embedding(*logits.shape)
    made = keras.Model({"source_tokens": source, "target_tokens": target}, table(target))
    table.set_weights([logits.astype("float32")])
    return made


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def next_log_probabilities(asked, source, prefixes):
    """What a model says about the token after each prefix of one length; the source comes without padding."""
    source = np.repeat(source[source > 0][None], len(prefixes), axis=0)
    inputs = {"source_tokens": source, "target_tokens": np.array([[BEGIN, *prefix] for prefix in prefixes])}
    logits = ops.convert_to_numpy(asked(inputs, training=False))[:, -1].astype("float64")
    logits[:, [0, BEGIN]] = -1e9
    return log_softmax(logits)


def padded(rows):
    width = max(map(len, rows))
    return np.array([[*row, *[0] * (width - len(row))] for row in rows])


def greedy_by_hand(asked, source, length):
    tokens = []
    while len(tokens) < length and END not in tokens:
        tokens.append(int(next_log_probabilities(asked, source, [tokens]).argmax()))
    return tokens


def penalized(total, tokens, penalty):
    return total / ((5 + len(tokens)) / 6) ** penalty


def beam_by_hand(asked, source, length, size, penalty):
    beams = [(0.0, [])]
    for _ in range(length):
        longer = [beam for beam in beams if END in beam[1]]
        unfinished = [beam for beam in beams if END not in beam[1]]
        if not unfinished:
            break
        scores = next_log_probabilities(asked, source, [tokens for _, tokens in unfinished])
        for (total, tokens), row in zip(unfinished, scores, strict=True):
            longer += [(total + row[i], [*tokens, i]) for i in range(len(row)) if i not in (0, BEGIN)]
        beams = sorted(longer, key=lambda beam: -penalized(*beam, penalty))[:size]
    return [int(token) for token in beams[0][1]]


# With a cache as without


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", [2, 3])
def test_the_same_tokens_with_a_cache_and_without(strategy, seed):
    settings = {"max_length": 10, "strategy": strategy, "temperature": 1.5, "top_k": 8, "seed": seed}
    cached, uncached = (generate(model(seed), SOURCE, use_cache=use, **settings) for use in (True, False))
    np.testing.assert_array_equal(cached, uncached)
    assert len({tuple(row) for row in cached.tolist()}) > 1  # the sources matter


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_same_logits_with_a_cache_and_without(rng, num_beams):
    tokens = rng.integers(3, V, (4 * num_beams, 11)).astype("int32")
    tokens[:, 0] = BEGIN
    made, settings = (
        transformer(12, V, 16, 8, 2, 16),
        _Settings(BEGIN, END, 10, "greedy", num_beams, None, True),
    )
    (step, cache), (whole, _) = (make(made, settings, SOURCE) for make in (_cached, _uncached))
    for position in range(10):
        logits, cache = step(ops.convert_to_tensor(tokens), position, cache)
        expected, _ = whole(ops.convert_to_tensor(tokens), position, ())
        logits, expected = ops.convert_to_numpy(logits), ops.convert_to_numpy(expected)
        assert logits.shape == (4 * num_beams, V)
        np.testing.assert_allclose(logits, expected, atol=1e-5)


# As by hand


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_greedy_is_the_search_by_hand(seed):
    expected = padded([greedy_by_hand(model(seed), row, 9) for row in SOURCE])
    np.testing.assert_array_equal(generate(model(seed), SOURCE, max_length=9), expected)


@pytest.mark.parametrize(("size", "penalty"), [(2, 0.0), (3, 0.6), (4, 2.0)])
def test_beam_search_is_the_search_by_hand(size, penalty):
    expected = padded([beam_by_hand(model(3), row, 6, size, penalty) for row in SOURCE])
    beam = generate(model(3), SOURCE, max_length=6, strategy="beam", beam_size=size, length_penalty=penalty)
    np.testing.assert_array_equal(beam, expected)


def test_a_beam_of_one_is_greedy():
    beam = generate(model(2), SOURCE, max_length=8, strategy="beam", beam_size=1)
    np.testing.assert_array_equal(beam, generate(model(2), SOURCE, max_length=8))


@pytest.mark.parametrize("penalty", [0.0, 0.6, 3.0])
def test_a_wide_beam_finds_the_best_of_all_targets(rng, penalty):
    """Three tokens can follow one another: 31 targets of up to four, all of them in a beam of 40."""
    possible, best_lengths = [END, 4, 5], set()
    for _ in range(4):
        logits = np.full((40, 40), -1e9)
        logits[np.ix_([BEGIN, 4, 5], possible)] = 2 * rng.standard_normal((3, 3))
        scores = log_softmax(logits)
        targets = [[*start, END] for n in range(4) for start in itertools.product([4, 5], repeat=n)]
        targets += [list(tokens) for tokens in itertools.product([4, 5], repeat=4)]
        assert len(targets) == 31
        ranked = {tuple(t): sum(scores[a, b] for a, b in itertools.pairwise([BEGIN, *t])) for t in targets}
        best = max(ranked, key=lambda target: penalized(ranked[target], target, penalty))
        beam = generate(
            chain(logits),
            SOURCE[:1],
            max_length=4,
            strategy="beam",
            beam_size=40,
            length_penalty=penalty,
            use_cache=False,
        )
        assert tuple(beam[0]) == best
        best_lengths.add(len(best))
    assert len(best_lengths) > 1 or penalty == 3.0


def test_a_length_penalty_makes_beams_longer():
    logits = np.full((6, 6), -1e9)
    logits[BEGIN, [END, 4]] = np.log([0.6, 0.4])  # to stop: 0.6
    logits[4, 5], logits[5, END] = 0, 0  # to go on: 0.4, three tokens
    write = functools.partial(
        generate, chain(logits), SOURCE[:1], max_length=4, strategy="beam", use_cache=False
    )
    assert write(length_penalty=0.0).tolist() == [[END]]
    # log 0.4 / log 0.6 = 1.79 < (8 / 6)^2.2 = 1.88
    assert write(length_penalty=2.2).tolist() == [[4, 5, END]]


# Sampling

PROBABILITIES = np.array([0, 0.05, 0, 0.1, 0.4, 0.25, 0.2])
SAMPLES = 20_000


@functools.lru_cache
def one_token_model():
    return chain(np.tile(np.log(np.maximum(PROBABILITIES, 1e-30)), (7, 1)))


def frequencies(seed=7, **settings):
    tokens = generate(
        one_token_model(),
        np.ones((SAMPLES, 1), "int32"),
        max_length=1,
        strategy="sample",
        seed=seed,
        use_cache=False,
        **settings,
    )
    return np.bincount(tokens[:, 0], minlength=7) / SAMPLES


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [1, 3, 4, 5, 6]),
        ({"temperature": 0.5}, [1, 3, 4, 5, 6]),
        ({"temperature": 2.0}, [1, 3, 4, 5, 6]),
        ({"top_k": 1}, [4]),
        ({"top_k": 3}, [4, 5, 6]),
        ({"top_k": 3, "temperature": 2.0}, [4, 5, 6]),
        ({"top_k": 7}, [1, 3, 4, 5, 6]),
        ({"top_p": 0.3}, [4]),
        ({"top_p": 0.6}, [4, 5]),
        ({"top_p": 0.8}, [4, 5, 6]),
        ({"top_p": 1.0}, [1, 3, 4, 5, 6]),
        ({"top_p": 0.5, "temperature": 0.5}, [4]),  # 0.4² / Σp² = 0.59 > 0.5
        ({"top_p": 0.6, "temperature": 0.5}, [4, 5]),
        ({"top_k": 2, "top_p": 0.8}, [4, 5]),
        ({"top_k": 3, "top_p": 0.6}, [4, 5]),
    ],
)
def test_sampling_follows_the_renormalized_distribution(settings, kept):
    expected = np.zeros(7)
    expected[kept] = PROBABILITIES[kept] ** (1 / settings.get("temperature", 1.0))
    expected /= expected.sum()
    error = np.sqrt(expected * (1 - expected) / SAMPLES)
    # Four and a half standard errors: one run in 10,000 would leave them, and the seed is fixed.
    assert (np.abs(frequencies(**settings) - expected) <= 4.5 * error).all()


def test_a_low_temperature_is_greedy():
    sample = generate(model(2), SOURCE, max_length=8, strategy="sample", temperature=1e-4, seed=3)
    np.testing.assert_array_equal(sample, generate(model(2), SOURCE, max_length=8))


@pytest.mark.parametrize("temperature", [1e12, 1e30, 1e-30])
def test_what_is_forbidden_is_written_at_no_temperature(temperature):
    tokens = frequencies(temperature=temperature) > 0
    assert np.flatnonzero(tokens).tolist() == ([4] if temperature < 1 else [1, 3, 4, 5, 6])


def test_a_seed_repeats_a_sample_and_another_changes_it():
    draw = functools.partial(generate, model(2), SOURCE, max_length=10, strategy="sample", temperature=3.0)
    first = draw(seed=1)
    np.testing.assert_array_equal(draw(seed=1), first)
    assert not np.array_equal(draw(seed=2)[:, :3], first[:, :3])
    assert not np.array_equal(draw()[:, :3], draw()[:, :3])  # without a seed: never twice the same
    np.random.seed(5)
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(draw(seed=1), first)  # no other generator has a part in it


# Ends and lengths


def test_it_stops_at_the_end_and_pads_after_it():
    logits = np.full((8, 8), -1e9)
    for token, following in [(BEGIN, 4), (4, 5), (5, 6), (6, END)]:
        logits[token, following] = 0
    for strategy in STRATEGIES:
        write = functools.partial(generate, chain(logits), SOURCE, strategy=strategy, use_cache=False, seed=0)
        assert write(max_length=20).tolist() == [[4, 5, 6, END]] * 4
        assert write(max_length=4).tolist() == [[4, 5, 6, END]] * 4
        assert write(max_length=2).tolist() == [[4, 5]] * 4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_end_on_their_own(strategy):
    tokens = generate(model(3), SOURCE, max_length=15, strategy=strategy, temperature=2.0, seed=1)
    assert tokens.dtype == np.int32 and tokens.shape[0] == 4 and 1 <= tokens.shape[1] <= 15
    assert not np.isin(tokens, [BEGIN]).any() and (tokens[:, -1] != 0).any()
    ends = [row.index(END) if END in row else 14 for row in tokens.tolist()]
    for row, end in zip(tokens, ends, strict=True):
        assert (row[: end + 1] != 0).all() and (row[end + 1 :] == 0).all()


def test_padding_and_company_change_nothing():
    together = generate(model(2), SOURCE, max_length=8)
    wider = generate(model(2), np.pad(SOURCE, ((0, 0), (0, 4))), max_length=8)
    np.testing.assert_array_equal(wider, together)
    for row, source in zip(together, SOURCE, strict=True):
        alone = generate(model(2), source[source > 0][None], max_length=8)[0]
        np.testing.assert_array_equal(alone, row[: len(alone)])
        assert (row[len(alone) :] == 0).all()


def test_an_empty_source_is_answered():
    assert generate(model(2), np.zeros((1, 3), "int32"), max_length=4).shape[1] >= 1
    assert generate(model(2), np.zeros((0, 3), "int32"), max_length=4).shape[0] == 0


# Compilation and weights


def test_the_loop_is_compiled_once():
    made = transformer(12, V, 16, 8, 2, 16, 1)
    for seed, temperature, top_p in [(1, 1.0, 0.9), (2, 0.5, None), (3, 2.0, 0.5)]:
        settings = {"seed": seed, "temperature": temperature, "top_p": top_p}
        generate(made, SOURCE, max_length=12, strategy="sample", **settings)
        generate(made, SOURCE[::-1], max_length=12, strategy="beam", length_penalty=temperature)
    assert len(made._generation_loops) == 2
    if keras.backend.backend() == "tensorflow":
        assert [loop.experimental_get_tracing_count() for loop in made._generation_loops.values()] == [1, 1]


def test_pytorch_keeps_nothing_for_a_gradient():
    if keras.backend.backend() != "torch":
        pytest.skip("the others record nothing unless they are asked to")
    import torch

    made = chain(np.eye(V))
    assert torch.is_grad_enabled()
    assert not _compile(made, lambda: made(dict.fromkeys(made.input, SOURCE)))().requires_grad


@pytest.mark.parametrize("use_cache", [True, False])
def test_weights_changed_after_compilation_are_used(use_cache):
    made = transformer(12, V, 16, 8, 2, 16, 2)
    write = functools.partial(generate, made, SOURCE, max_length=8, use_cache=use_cache)
    before = write()
    made.set_weights(model(2).get_weights())
    after = write()
    assert before.shape != after.shape or (before != after).any()
    np.testing.assert_array_equal(after, generate(model(2), SOURCE, max_length=8))


def test_training_after_generation_is_used(rng):
    """The model learns to answer with its source's first token."""
    made = transformer(12, V, 16, 16, 2, 32, 1, dropout=0.0)
    source = rng.integers(4, V, (64, 3)).astype("int32")
    target = np.stack([np.full(64, BEGIN), source[:, 0]], axis=1).astype("int32")
    labels = np.stack([source[:, 0], np.full(64, END)], axis=1).astype("int32")
    wrong = (generate(made, source, max_length=2)[:, :1] != labels[:, :1]).mean()
    made.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.fit({"source_tokens": source, "target_tokens": target}, labels, epochs=40, batch_size=64, verbose=0)
    np.testing.assert_array_equal(generate(made, source, max_length=2), labels)
    assert wrong > 0.5


def test_a_model_that_has_written_saves_and_loads(tmp_path):
    made = transformer(12, V, 16, 8, 2, 16, 1)
    expected = generate(made, SOURCE, max_length=6)
    made.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(generate(loaded, SOURCE, max_length=6), expected)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_writes(policy):
    keras.config.set_dtype_policy(policy)
    try:
        made = transformer(12, V, 16, 8, 2, 16, 1)
    finally:
        keras.config.set_dtype_policy("float32")
    for strategy in STRATEGIES:
        tokens = generate(made, SOURCE, max_length=5, strategy=strategy, seed=0)
        assert tokens.min() >= 0 and tokens.max() < V


# Any model, bad input


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_model_of_the_two_inputs_may_write(strategy):
    made = lstm_seq2seq(12, V, 8, 8)
    tokens = generate(made, SOURCE, max_length=6, strategy=strategy, seed=0, use_cache=False)
    if strategy == "greedy":
        np.testing.assert_array_equal(tokens, padded([greedy_by_hand(made, row, 6) for row in SOURCE]))
    assert tokens.shape[0] == 4 and tokens.shape[1] <= 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, r"max_length must be from 1 to the model's own max_length, 16; received .*=0\."),
        ({"max_length": 17}, r"max_length must be from 1 .* 16; received max_length=17\."),
        ({"strategy": "magic"}, r"strategy must be one of greedy, sample, beam; received strategy='magic'\."),
        ({"beam_size": 0}, r"beam_size must be from 1 to the vocabulary size, 12; received beam_size=0\."),
        ({"beam_size": 13}, r"beam_size must be from 1 to the vocabulary size, 12; received beam_size=13\."),
        ({"temperature": 0.0}, r"temperature must be from 1e-30 to 1e30; received temperature=0\.0\."),
        ({"temperature": np.inf}, r"temperature must be from 1e-30 to 1e30; received temperature=inf\."),
        ({"temperature": np.nan}, r"temperature must be from 1e-30 to 1e30; received temperature=nan\."),
        ({"length_penalty": -np.inf}, r"length_penalty must be from -10 to 10; received .*=-inf\."),
        ({"length_penalty": np.nan}, r"length_penalty must be from -10 to 10; received length_penalty=nan\."),
        ({"top_k": 0}, r"top_k must be None or from 1 to the vocabulary size, 12; received top_k=0\."),
        ({"top_k": 13}, r"top_k must be None or .* received top_k=13\."),
        ({"top_p": 0.0}, r"top_p must be None, or above 0 and at most 1; received top_p=0\.0\."),
        ({"top_p": 1.1}, r"top_p must be None, or above 0 and at most 1; received top_p=1\.1\."),
        ({"begin_id": 12}, r"begin_id must be from 1 to 11; received begin_id=12\."),
        ({"begin_id": 0}, r"begin_id must be from 1 to 11; received begin_id=0\."),
        ({"end_id": 0}, r"end_id must be from 1 to 11 and not begin_id; received end_id=0\."),
        ({"end_id": 2}, r"end_id must be from 1 to 11 and not begin_id; received end_id=2\."),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        generate(model(2), SOURCE, **({"max_length": 8} | settings))


@pytest.mark.parametrize("made", [model(2), lstm_seq2seq(12, V, 8, 8)])
@pytest.mark.parametrize(
    ("source", "received"),
    [
        ([[5, 12]], "int64 5 to 12"),
        ([[-1, 4]], "int64 -1 to 4"),
        ([[1.5, 4.0]], r"float64 1\.5 to 4\.0"),
    ],
)
def test_source_ids_outside_the_vocabulary_are_refused(made, source, received):
    with pytest.raises(ValueError, match=rf"source_tokens must be ints in \[0, 12\); received {received}\."):
        generate(made, source, max_length=4, use_cache=False)


def test_bad_sources_and_models_are_refused():
    with pytest.raises(
        ValueError, match=r"source_tokens must have shape \(batch, length\); received shape \(5,\)\."
    ):
        generate(model(2), SOURCE[0], max_length=4)
    with pytest.raises(ValueError, match=r"tokens must have at most max_length=16 positions"):
        generate(model(2), np.ones((1, 17), int), max_length=4)
    with pytest.raises(
        ValueError, match=r"use_cache must be False for a model .*; received use_cache=True\."
    ):
        generate(lstm_seq2seq(12, V, 8, 8), SOURCE)
