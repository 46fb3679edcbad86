"""Rows packed full, batches that depend on seed and step alone, and models that train on them."""

import itertools

import keras
import numpy as np
import pytest

from companion.batches import causal_batches, masked_batches, pack, span_batches
from companion.models import bert, gpt, t5
from companion.objectives import masked_per_row, restore_spans, span_counts
from companion.pretraining import Pretrainer

SENTINELS = range(99, 79, -1)
ROWS = np.arange(10, 10 + 7 * 9).reshape(7, 9)  # no two tokens alike: 10 to 72
STREAMS = {
    "causal": lambda **settings: causal_batches(ROWS, 3, **settings),
    "masked": lambda **settings: masked_batches(ROWS, 80, 4, (0, 1, 2, 3), 3, **settings),
    "spans": lambda **settings: span_batches(ROWS, SENTINELS, 0, 3, 3, **settings),
}
each_stream = pytest.mark.parametrize("name", STREAMS)


def flat(batches):
    """The arrays of every batch."""
    return [keras.tree.flatten(batch) for batch in batches.as_numpy_iterator()]


def same(some, others):
    pairs = zip(itertools.chain(*some), itertools.chain(*others), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def first_tokens(batches):
    """By which a row can be known, in order."""
    return np.concatenate([labels[:, 0] for _, labels, _ in batches.as_numpy_iterator()])


# Packing


def test_documents_are_joined_with_their_ends_and_cut():
    rows = pack([[5, 6, 7], [], [8, 9]], 3, end_id=3)
    assert rows.tolist() == [[5, 6, 7], [3, 3, 8]] and rows.dtype == "int32"  # 9 and its end fill no row
    assert pack(iter([[5, 6], [7, 8, 9]]), 7, 3).tolist() == [[5, 6, 3, 7, 8, 9, 3]]


def test_nothing_is_lost_but_the_last_row(rng):
    documents = [rng.integers(4, 50, length) for length in rng.integers(0, 40, 60)]
    joined = np.concatenate([np.append(document, 3) for document in documents])
    rows = pack(documents, 16, 3)
    assert rows.size == len(joined) // 16 * 16
    np.testing.assert_array_equal(rows.ravel(), joined[: rows.size])


def test_too_little_to_pack_is_refused():
    with pytest.raises(ValueError, match="documents must fill a row of length=4; received 3 tokens"):
        pack([[5, 6]], 4, 3)
    with pytest.raises(ValueError, match="length must be at least 1; received length=0"):
        pack([[5, 6]], 0, 3)


# The stream


@each_stream
def test_a_batch_depends_on_seed_and_step_alone(name):
    whole = flat(STREAMS[name](seed=1, num_steps=12))
    assert len(whole) == 12
    for start in (1, 2, 7, 11):
        rest = STREAMS[name](seed=1, start_step=start, num_steps=12)
        assert same(flat(rest), whole[start:])
        assert rest.cardinality() == 12 - start
    assert flat(STREAMS[name](start_step=12, num_steps=12)) == []  # the run has ended
    again = STREAMS[name](seed=1, num_steps=12)
    assert same(flat(again), whole) and same(flat(again), whole)
    assert not same(flat(STREAMS[name](seed=2, num_steps=12)), whole)


@each_stream
def test_every_pass_has_every_row_once_in_an_order_of_its_own(name):
    batches = STREAMS[name](num_steps=7)  # three passes of 7 rows in batches of 3
    if name == "spans":
        keys = [
            [
                restore_spans(row[:-1], label[:-1], SENTINELS)[0]
                for row, label in zip(x["source_tokens"], y, strict=True)
            ]
            for x, y, _ in batches.as_numpy_iterator()
        ]
        keys = np.concatenate(keys)
    else:
        keys = first_tokens(batches) - (name == "causal")
    passes = keys.reshape(3, 7)
    assert np.sort(passes).tolist() == [ROWS[:, 0].tolist()] * 3
    assert len({tuple(one) for one in passes}) == 3


@each_stream
def test_one_pass_by_default_in_full_batches_of_fixed_shape(name):
    batches = STREAMS[name]()
    assert batches.cardinality() == len(flat(batches)) == 2
    specs = keras.tree.flatten(batches.element_spec)
    assert all(spec.shape.is_fully_defined() and spec.shape[0] == 3 for spec in specs)
    assert [spec.dtype.name for spec in specs] == ["int32"] * (len(specs) - 1) + ["float32"]


def test_a_batch_may_be_larger_than_the_corpus():
    (batch,) = causal_batches(ROWS[:2], 4, num_steps=1).as_numpy_iterator()
    assert np.unique(batch[0][:, 0], return_counts=True)[1].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (ROWS, {"batch_size": 0, "num_steps": 1}, "batch_size must be at least 1; received batch_size=0"),
        (ROWS, {"batch_size": 8}, "num_steps must be at least 1; received num_steps=0"),
        (ROWS, {"batch_size": 3, "start_step": 3}, "start_step must be from 0 to 2; received start_step=3"),
        (ROWS, {"batch_size": 3, "start_step": -1}, "start_step must be from 0 to 2; received start_step=-1"),
        (ROWS[0], {"batch_size": 3}, r"rows must have shape .*2 or more tokens.*; received \(9,\)"),
        (ROWS[:, :1], {"batch_size": 3}, r"rows must have shape .* received \(7, 1\)"),
        (ROWS[:0], {"batch_size": 3}, r"rows must have shape .* received \(0, 9\)"),
    ],
)
def test_bad_numbers_are_refused(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        causal_batches(rows, **settings)
    with pytest.raises(ValueError, match=message):
        span_batches(rows, SENTINELS, 0, 3, **settings)


# What is in the batches


def test_the_label_of_a_token_is_the_next_one():
    for tokens, labels, weights in causal_batches(ROWS, 3).as_numpy_iterator():
        assert tokens.shape == labels.shape == weights.shape == (3, 8)
        np.testing.assert_array_equal(labels, tokens + 1)
        assert tokens.max() == labels.max() - 1 and (weights == 1).all()


def test_masked_batches_ask_for_what_was_hidden_and_hide_anew_in_each_pass():
    passes = flat(masked_batches(ROWS, 80, 4, (0, 1, 2, 3), 7, num_steps=2, share=0.3))
    chosen = []
    for segments, tokens, labels, weights in passes:
        assert not segments.any()
        assert weights.sum(axis=1).tolist() == [masked_per_row(9, 0.3)] * 7
        np.testing.assert_array_equal(tokens[weights == 0], labels[weights == 0])
        assert (tokens[weights == 1] != labels[weights == 1]).mean() > 0.6
        np.testing.assert_array_equal(np.sort(labels, axis=0), ROWS)
        chosen.append(weights[np.argsort(labels[:, 0])])
    assert (chosen[0] != chosen[1]).any()


def test_span_batches_have_one_length_an_end_and_a_shifted_target():
    removed, spans = span_counts(9, 0.4, 2.0)
    batches = span_batches(ROWS, SENTINELS, 0, 3, 7, num_steps=3, share=0.4, mean_length=2.0)
    for inputs, labels, weights in batches.as_numpy_iterator():
        source, target = inputs["source_tokens"], inputs["target_tokens"]
        assert source.shape == (7, 9 - removed + spans + 1)
        assert target.shape == labels.shape == (7, removed + spans + 1)
        assert (source[:, -1] == 3).all() and (labels[:, -1] == 3).all() and (target[:, 0] == 0).all()
        np.testing.assert_array_equal(target[:, 1:], labels[:, :-1])
        assert (weights == 1).all()
        restored = [
            restore_spans(one[:-1], other[:-1], SENTINELS) for one, other in zip(source, labels, strict=True)
        ]
        np.testing.assert_array_equal(np.sort(restored, axis=0), ROWS)


# Training

SIZES = {"model_dim": 16, "num_heads": 2, "hidden_dim": 32, "num_layers": 1, "dropout": 0.0}
OBJECTIVES = {
    "causal": lambda: (gpt(100, 12, **SIZES), None),
    "masked": lambda: (bert(100, 12, **SIZES), masked_per_row(9, 0.5)),
    "spans": lambda: (t5(100, **SIZES), None),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_model_of_each_family_learns(name):
    model, labels_per_row = OBJECTIVES[name]()
    trainer = Pretrainer(model, labels_per_row)
    trainer.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    batches = STREAMS[name](num_steps=120, **({"share": 0.5} if name == "masked" else {}))
    losses = trainer.fit(batches, steps_per_epoch=60, epochs=2, shuffle=False, verbose=0).history["loss"]
    assert losses[1] < 0.7 * losses[0]
