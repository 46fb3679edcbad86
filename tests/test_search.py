"""Search: each strategy as a slow one in NumPy, on a model whose next token depends on the last one only."""

import functools
import itertools

import keras
import numpy as np
import pytest

from companion import generate

pytestmark = pytest.mark.backend
V, BEGIN, END = 8, 2, 3


@functools.cache
def chain(size=V):
    """A model of which row i of its only weight scores what follows token i."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    return keras.Model(tokens, keras.layers.Embedding(size, size)(tokens))


def write(logits, rows=1, prompt=(BEGIN,), **settings):
    """What follows the prompt, row by row, up to the end."""
    logits = np.asarray(logits, "float32")
    model = chain(len(logits))
    model.set_weights([logits])
    tokens = generate(model, [prompt] * rows, use_cache=False, **settings)
    ends = np.atleast_1d(settings.get("end_id", END))
    return [cut(row.tolist(), ends) for row in tokens]


def cut(tokens, ends):
    places = [i for i, token in enumerate(tokens) if token in ends]
    return tokens[: places[0] + 1] if places else tokens


def random_logits(seed, size=V):
    return 2 * np.random.default_rng(seed).standard_normal((size, size))


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


# The strategies by hand: Python lists, float64, one target at a time


def adjusted(scores, history, penalty=1.0, suppressed=(0, BEGIN)):
    scores = np.array(scores, "float64")
    for token in set(history):
        scores[token] *= penalty if scores[token] < 0 else 1 / penalty
    scores[list(suppressed)] = -np.inf
    return scores


def choose_by_hand(scores, uniform, temperature=1.0, top_k=None, top_p=None, min_p=None):
    scores = scores / temperature
    order = np.argsort(-scores, kind="stable") if top_k else np.arange(len(scores))
    powers = np.exp(scores[order] - scores.max())[:top_k]
    powers /= powers.sum()
    kept = np.ones(len(powers), bool)
    if top_p:
        ranked = np.argsort(-powers)
        kept[ranked] = np.cumsum(powers[ranked]) - powers[ranked] < top_p
    if min_p:
        kept &= powers >= min_p * powers.max()
    cumulative = np.cumsum(powers * kept)
    return int(order[np.flatnonzero(cumulative > uniform * cumulative[-1])[0]])


def sample_by_hand(logits, uniforms, penalty=1.0, end=END, **filters):
    tokens = [BEGIN]
    for uniform in uniforms:
        tokens.append(choose_by_hand(adjusted(logits[tokens[-1]], tokens, penalty), uniform, **filters))
        if tokens[-1] == end:
            break
    return tokens[1:]


def greedy_by_hand(logits, length, penalty=1.0, ends=(END,)):
    tokens = [BEGIN]
    while len(tokens) <= length and (len(tokens) == 1 or tokens[-1] not in ends):
        tokens.append(int(adjusted(logits[tokens[-1]], tokens, penalty).argmax()))
    return tokens[1:]


def beam_by_hand(logits, length, size, exponent, ends=(END,), penalty=1.0):
    beams, best = [(0.0, [BEGIN])], []
    for count in range(1, length + 1):
        longer = []
        for total, tokens in beams:
            scores = adjusted(log_softmax(logits[tokens[-1]]), tokens, penalty)
            longer += [(total + scores[i], [*tokens, i]) for i in np.flatnonzero(scores > -np.inf).tolist()]
        longer = sorted(longer, key=lambda beam: -beam[0])[: max(2, 1 + len(ends)) * size]
        ended = [(total, tokens) for total, tokens in longer[:size] if tokens[-1] in ends or count == length]
        best = sorted(best + [(total / count**exponent, tokens) for total, tokens in ended], reverse=True)[
            :size
        ]
        beams = [(total, tokens) for total, tokens in longer if tokens[-1] not in ends][:size]
        if not beams or (len(best) == size and beams[0][0] / count**exponent <= best[-1][0]):
            break
    return best[0][1][1:]


@pytest.mark.parametrize("penalty", [1.0, 1.7, 0.5])
def test_greedy_is_the_search_by_hand(penalty):
    lengths = set()
    for seed in range(12):
        (tokens,) = write(random_logits(seed), max_length=9, repetition_penalty=penalty)
        assert tokens == greedy_by_hand(random_logits(seed), 9, penalty)
        lengths.add(len(tokens))
    assert len(lengths) > 2 or penalty < 1


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"temperature": 2.5},
        {"top_k": 3},
        {"top_p": 0.7},
        {"min_p": 0.3},
        {"top_k": 5, "top_p": 0.8, "min_p": 0.1, "temperature": 1.8},
    ],
)
def test_sampling_is_the_search_by_hand(filters):
    penalty = 1.3 if len(filters) != 1 else 1.0
    for seed in range(12):
        logits = random_logits(seed)
        rows = write(
            logits,
            rows=4,
            max_length=6,
            strategy="sample",
            seed=seed,
            repetition_penalty=penalty,
            **filters,
        )
        uniforms = np.random.default_rng(seed).random((6, 4), "float32")
        assert rows == [sample_by_hand(logits, column, penalty, **filters) for column in uniforms.T]


@pytest.mark.parametrize(
    ("size", "ends", "penalty"),
    [(1, [3], 1.0), (2, [3], 1.0), (4, [3], 1.6), (3, [3, 5, 6], 1.0), (3, [], 1.0)],
)
def test_beam_search_is_the_search_by_hand(size, ends, penalty):
    differs = 0
    for seed, exponent in itertools.product(range(12), [0.0, 1.0, 2.5, -1.0]):
        logits = random_logits(seed)
        (tokens,) = write(
            logits,
            max_length=7,
            strategy="beam",
            beam_size=size,
            end_id=ends,
            length_penalty=exponent,
            repetition_penalty=penalty,
        )
        assert tokens == beam_by_hand(logits, 7, size, exponent, ends, penalty)
        differs += tokens != greedy_by_hand(logits, 7, penalty, ends)
    assert differs > 3 or size == 1


# Closed forms


def test_a_repetition_penalty_divides_positive_scores_and_multiplies_negative_ones():
    logits = np.full((V, V), -50.0)
    logits[:, 4], logits[:, 5], logits[:, 6] = 3.0, 2.0, 1.0
    assert write(logits, max_length=4, repetition_penalty=1.4)[0] == [4, 4, 4, 4]  # 3 / 1.4 > 2
    assert write(logits, max_length=4, repetition_penalty=2.0)[0] == [4, 5, 4, 4]  # 3 / 2 > 2 / 2
    assert write(logits, max_length=4, repetition_penalty=4.0)[0] == [4, 5, 6, 4]
    logits[:, 4:7] -= 4  # -1, -2, -3
    assert write(logits, max_length=4, repetition_penalty=1.9)[0] == [4, 4, 4, 4]  # -1 * 1.9 > -2
    assert write(logits, max_length=4, repetition_penalty=2.5)[0] == [4, 5, 4, 4]  # -2 > -1 * 2.5 > -3
    assert write(logits, max_length=2, repetition_penalty=2.5, prompt=(4, 6))[0] == [5, 4]


def test_a_length_penalty_makes_beams_longer():
    logits = np.full((V, V), -1e9)
    logits[BEGIN, [END, 4]] = np.log([0.6, 0.4])  # to stop: log 0.6 = -0.51
    logits[4, 5], logits[5, END] = 0, 0  # to go on, three tokens: log 0.4 = -0.92
    search = functools.partial(write, logits, max_length=4, strategy="beam")
    assert search(length_penalty=0.0) == [[END]]
    assert search(length_penalty=0.5) == [[END]]  # -0.92 / 3^0.5 = -0.53
    assert search(length_penalty=0.6) == [[4, 5, END]]  # -0.92 / 3^0.6 = -0.47


@pytest.mark.parametrize("exponent", [0.0, 3.0])
def test_a_wide_beam_finds_the_best_of_all_targets(rng, exponent):
    """Three tokens can follow one another: 31 targets of up to four, all of them in a beam of 40."""
    best_lengths = set()
    for _ in range(4):
        logits = np.full((40, 40), -1e9)
        logits[np.ix_([BEGIN, 4, 5], [END, 4, 5])] = 2 * rng.standard_normal((3, 3))
        scores = log_softmax(logits)
        targets = [[*start, END] for n in range(4) for start in itertools.product([4, 5], repeat=n)]
        targets += [list(tokens) for tokens in itertools.product([4, 5], repeat=4)]
        totals = [sum(scores[a, b] for a, b in itertools.pairwise([BEGIN, *target])) for target in targets]
        ranked = [total / len(target) ** exponent for total, target in zip(totals, targets, strict=True)]
        settings = {"strategy": "beam", "beam_size": 40, "length_penalty": exponent}
        assert write(logits, max_length=4, **settings) == [targets[int(np.argmax(ranked))]]
        best_lengths.add(len(targets[int(np.argmax(ranked))]))
    assert len(best_lengths) > 1 or exponent


PROBABILITIES = np.array([0, 0.05, 0, 0.1, 0.4, 0.25, 0.2])
SAMPLES = 20_000


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [1, 3, 4, 5, 6]),
        ({"temperature": 0.5}, [1, 3, 4, 5, 6]),
        ({"temperature": 1e12}, [1, 3, 4, 5, 6]),
        ({"temperature": 1e-30}, [4]),
        ({"top_k": 1}, [4]),
        ({"top_k": 3, "temperature": 2.0}, [4, 5, 6]),
        ({"top_p": 0.3}, [4]),
        ({"top_p": 0.6}, [4, 5]),
        ({"top_p": 0.8}, [4, 5, 6]),
        ({"top_p": 0.5, "temperature": 0.5}, [4]),  # 0.4² / Σp² = 0.59 > 0.5
        ({"min_p": 0.0}, [1, 3, 4, 5, 6]),
        ({"min_p": 0.2}, [3, 4, 5, 6]),  # 0.2 * 0.4 < 0.1
        ({"min_p": 0.55}, [4, 5]),  # 0.55 * 0.4 > 0.2
        ({"min_p": 0.55, "temperature": 2.0}, [4, 5, 6]),  # 0.55 < (0.2 / 0.4)^(1/2)
        ({"min_p": 1.0}, [4]),
        ({"top_k": 3, "top_p": 0.6}, [4, 5]),
        ({"top_k": 3, "min_p": 0.2}, [4, 5, 6]),
        ({"top_p": 0.6, "min_p": 0.2}, [4, 5]),
    ],
)
def test_sampling_follows_the_renormalized_distribution(settings, kept):
    logits = np.tile(np.log(np.maximum(PROBABILITIES, 1e-30)), (7, 1))
    tokens = write(logits, rows=SAMPLES, max_length=1, strategy="sample", seed=7, **settings)
    frequencies = np.bincount(np.ravel(tokens), minlength=7) / SAMPLES
    expected = np.zeros(7)
    expected[kept] = (PROBABILITIES[kept] / 0.4) ** (1 / settings.get("temperature", 1.0))
    expected /= expected.sum()
    error = np.sqrt(expected * (1 - expected) / SAMPLES)
    # Four and a half standard errors: one run in 10,000 would leave them, and the seed is fixed.
    assert (np.abs(frequencies - expected) <= 4.5 * error).all()


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_any_of_several_ends_stops_and_none_means_never(strategy):
    logits = np.full((V, V), -1e9)
    for token, following in [(BEGIN, 4), (4, 5), (5, 6), (6, END), (END, 4)]:
        logits[token, following] = 0
    search = functools.partial(write, logits, strategy=strategy, seed=0)
    assert search(max_length=20) == search(max_length=4) == [[4, 5, 6, END]]
    assert search(max_length=2) == [[4, 5]]
    assert search(max_length=20, end_id=[7, 5]) == [[4, 5]]
    assert search(max_length=6, end_id=()) == [[4, 5, 6, END, 4, 5]]


def test_only_what_is_suppressed_is_never_written():
    logits = np.tile(np.arange(V)[::-1], (V, 1))
    assert write(logits, max_length=2) == [[1, 1]]  # not padding
    assert write(logits, max_length=2, suppress_ids=()) == [[0, 0]]
    assert write(logits, max_length=2, suppress_ids=[0, 1, 3]) == [[BEGIN, BEGIN]]
    assert write(logits, max_length=2, suppress_ids=range(V - 1)) == [[V - 1, V - 1]]
    assert write(logits, max_length=2, padding_id=1, begin_id=0, end_id=[1]) == [[1]]  # or nothing would end
