"""Section 9 of the article: each test proves one erratum of data/errata/09.json."""

import keras
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from companion.compute import pf_days, training_days, training_flops
from companion.ngrams import KneserNey
from companion.splits import near_duplicates


def test_e40_gpt_3_takes_a_month_or_centuries():
    """The same operations, on two kinds of hardware: neither is days to weeks, and both are right."""
    flops = training_flops(174.6e9, 300e9)
    assert flops == pytest.approx(3.14e23, rel=2e-3) and pf_days(flops) == pytest.approx(3640, rel=2e-3)
    recomputed = training_flops(175e9, 300e9, recompute=True)
    assert training_days(recomputed, devices=1024, flops_per_second=140e12) == pytest.approx(33.9, abs=0.05)
    assert training_days(flops, devices=1, flops_per_second=28e12) / 365.25 == pytest.approx(355, abs=1)


def test_e41_four_days_of_bert_are_months_on_one_chip():
    """The speed that four days of the base model imply predicts the four days of the large one."""
    tokens = 1e6 * 256 * (0.9 * 128 + 0.1 * 512)
    base, large = (training_flops(weights, tokens) for weights in (110e6, 340e6))
    speed = base / (16 * 4 * 86_400)
    assert 1e12 < speed < 45e12  # of at most 45e12 for a chip of the second TPU
    assert training_days(large, 64, speed) == pytest.approx(4, rel=0.3)
    for flops in (base, large):
        assert training_days(flops, 1, speed) > 60  # the article names no hardware


def test_e42_float16_alone_loses_gradients_and_steps():
    small = np.float32([1e-8, -2e-8, 1e-3])  # the smallest number above 0 that float16 has is 6e-8
    assert list(small.astype("float16") == 0) == [True, True, False]
    scaled = (small * 2**15).astype("float16").astype("float32") / 2**15
    np.testing.assert_allclose(scaled, small, rtol=1e-3)
    weight = {kind: np.array(1, kind) for kind in ("float16", "float32")}
    for kind in weight:
        for _ in range(100):
            weight[kind] = (weight[kind] - np.array(1e-4, kind)).astype(kind)
    assert weight["float16"] == 1 and weight["float32"] == pytest.approx(0.99, rel=1e-5)


def test_e42_keras_keeps_float32_weights_and_scales_the_loss():
    """One step whose gradients float16 cannot hold: taken with a scaled loss, lost without."""
    moved = {}
    for scaled in (True, False):
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", dtype="mixed_float16")
        model = keras.Sequential([keras.Input([1]), layer], name="scaled")
        assert (layer.compute_dtype, layer.variable_dtype) == ("float16", "float32")
        model.compile(keras.optimizers.SGD(1e6), _tiny_loss, auto_scale_loss=False, jit_compile=False)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e6), initial_scale=2**15)
            model.compile(optimizer, _tiny_loss, auto_scale_loss=False, jit_compile=False)
        model.fit(np.ones((4, 1), "float32"), np.zeros((4, 1), "float32"), batch_size=4, verbose=0)
        moved[scaled] = 1 - float(np.squeeze(model.get_weights()[0]))
    assert moved[False] == 0 and moved[True] == pytest.approx(1e-8 * 1e6, rel=0.01)


def _tiny_loss(expected, predicted):
    return 1e-8 * keras.ops.cast(predicted[:, 0], "float32")


def test_e42_cleaning_saves_what_it_removes():
    """A copy removed is a text less to compute; an error put right is not."""
    words = ["amber", "birch", "cedar", "delta", "ember"]
    texts = [f"the {word} stands in {word}ton, as every {word}er knows" for word in words]
    first = near_duplicates([*texts, *(f"{text}!" for text in texts)])
    kept = [index for index, group in enumerate(first) if group == index]
    assert kept == [0, 1, 2, 3, 4]
    assert training_flops(1e6, len(kept)) == training_flops(1e6, len(first)) / 2
    put_right = [text.replace("stands", "lies") for text in texts]
    assert sum(len(text.split()) for text in put_right) == sum(len(text.split()) for text in texts)


def test_e43_fluency_does_not_tell_true_from_false():
    """In a world where the evens are good: what decides lies beyond the judge's context."""
    good, bad, end, size = 200, 201, 202, 210

    def sentence(number, lie=False):
        return [number, *range(203, 210), good if (number % 2 == 0) != lie else bad]

    pairs = np.random.default_rng(43).permutation(100)
    read, new = ([n for k in half for n in (2 * k, 2 * k + 1)] for half in (pairs[:50], pairs[50:]))
    judge = KneserNey.train([[*sentence(number), end] for number in read], size, order=3)
    rows = [sentence(number, lie) for lie in (False, True) for number in new]
    losses = [round(loss.mean(), 9) for loss in judge.log_probability(rows)]
    assert roc_auc_score(np.repeat([True, False], len(new)), losses) == 0.5
    known = {tuple(sentence(number)) for number in read}
    assert not known & set(map(tuple, rows))  # no check of copies and repetition objects either
    assert all(len(set(row)) == len(row) for row in rows)
    one_sided = KneserNey.train([[*sentence(number), end] for number in read[::2]], size, order=3)
    assert np.std([loss.mean() for loss in one_sided.log_probability(rows)]) > 1e-3  # the score can differ


def test_e43_no_temperature_makes_a_false_sentence_impossible():
    shares = KneserNey.train([[0, 1, 2, 0, 1, 3, 0, 1, 2]], 5, order=3).distribution([0, 1])
    assert shares[2] > shares[3] > shares[4] > 0  # said twice, once, never: truth plays no part
    for tau in (0.5, 1, 2):
        powers = shares ** (1 / tau)
        assert (powers / powers.sum()).min() > 0
