"""Private training: each example's gradient, the noise, the budget spent, what a model tells of secrets."""

import math

import keras
import numpy as np
import pytest
from scipy import integrate, stats

from companion import privacy
from companion.privacy import (
    PrivateTrainer,
    clip_per_example,
    exposure,
    per_example_gradients,
    privacy_budget,
    renyi_divergence,
)

tensorflow_only = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs TensorFlow")
COUNT = 12


def network():
    tokens = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(7, 3)(tokens)
    x = keras.layers.Dense(5, activation="tanh")(keras.layers.Flatten()(x))
    return keras.Model(tokens, keras.layers.Dense(3)(x))


@pytest.fixture
def data(rng):
    return rng.integers(7, size=(COUNT, 4)).astype("int32"), rng.integers(3, size=COUNT).astype("int32")


def norms(gradients):
    return np.sqrt(sum((np.asarray(one) ** 2).reshape(len(one), -1).sum(axis=1) for one in gradients))


def one_gradient(model, inputs, targets):
    """The gradient of the mean loss, from Keras's own training step with rate 1."""
    before = [np.array(variable) for variable in model.trainable_variables]
    weights = model.get_weights()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0), loss, jit_compile=False)
    model.train_on_batch(inputs, targets)
    change = [b - np.array(v) for b, v in zip(before, model.trainable_variables, strict=True)]
    model.set_weights(weights)
    return change


@tensorflow_only
def test_gradients_of_examples_are_those_of_batches_of_one(data):
    model = network()
    found = per_example_gradients(model, *data)
    for row in (0, 5):
        expected = one_gradient(model, data[0][row : row + 1], data[1][row : row + 1])
        for gradient, one in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.asarray(gradient)[row], one, atol=1e-5)
    assert all(
        one.shape == (COUNT, *v.shape) for one, v in zip(found, model.trainable_variables, strict=True)
    )


def test_long_gradients_are_shortened_to_the_norm_and_short_ones_stay(rng):
    gradients = [rng.normal(size=shape).astype("float32") for shape in ((6, 4, 2), (6, 3))]
    gradients = [one * np.array([0.01, 0.1, 1, 1, 5, 50], "f4")[(...,) + (None,) * (one.ndim - 1)]
                 for one in gradients]  # fmt: skip
    before, clipped = norms(gradients), clip_per_example(gradients, 1.0)
    clipped = [np.array(keras.ops.convert_to_numpy(one)) for one in clipped]
    after, short = norms(clipped), before <= 1
    assert short.any() and (~short).any()
    np.testing.assert_allclose(after[~short], 1, rtol=1e-6)
    for one, old in zip(clipped, gradients, strict=True):
        np.testing.assert_array_equal(one[short], old[short])
        direction = (one * old).reshape(6, -1).sum(1) / (one**2).reshape(6, -1).sum(1)
        np.testing.assert_allclose(
            direction, np.maximum(before, 1), rtol=1e-5
        )  # one factor for all variables
    unclipped = clip_per_example(gradients, math.inf)
    for one, old in zip(unclipped, gradients, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), old)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(clip_per_example([np.zeros((2, 3), "f4")], 1)[0]), 0
    )


@tensorflow_only
@pytest.mark.parametrize("chunk_size", [5, 64])
def test_without_clipping_and_noise_it_is_plain_gradient_descent(data, chunk_size, rng):
    model = network()
    trainer = PrivateTrainer(model, chunk_size=chunk_size)
    expected = one_gradient(model, *data)
    gradient = trainer.gradient(*data, math.inf, 0, COUNT, rng)
    for one, other in zip(gradient, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    before = [np.array(variable) for variable in model.trainable_variables]
    sizes = trainer.fit(*data, steps=1, batch_size=COUNT, learning_rate=0.5, clip_norm=math.inf,
                        noise_multiplier=0)  # fmt: skip
    assert sizes.tolist() == [COUNT]
    for old, variable, one in zip(before, model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(np.array(variable), old - 0.5 * one, atol=1e-6)


@tensorflow_only
def test_no_example_moves_the_sum_by_more_than_the_norm(data, rng):
    trainer = PrivateTrainer(network(), chunk_size=8)
    for clip_norm in (0.01, 0.3):
        whole = trainer.gradient(*data, clip_norm, 0, 1, rng)
        for row in range(COUNT):
            less = trainer.gradient(*(np.delete(part, row, axis=0) for part in data), clip_norm, 0, 1, rng)
            moved = math.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(whole, less, strict=True)))
            assert moved <= clip_norm * (1 + 1e-4)


@tensorflow_only
def test_the_noise_has_its_standard_deviation_and_is_gaussian():
    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(400)])
    trainer = PrivateTrainer(model)
    empty = np.zeros((0, 100), "f4"), np.zeros(0, "int32")
    kernel, bias = trainer.gradient(*empty, 0.5, 3.0, 10, np.random.default_rng(1))
    noise = np.concatenate([kernel.ravel(), bias]) / (3.0 * 0.5 / 10)
    assert abs(noise.mean()) < 4 / math.sqrt(noise.size)
    assert noise.std() == pytest.approx(1, abs=4 / math.sqrt(2 * noise.size))
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    again, _ = trainer.gradient(*empty, 0.5, 3.0, 10, np.random.default_rng(1))
    np.testing.assert_array_equal(kernel, again)


@tensorflow_only
def test_every_example_takes_part_with_its_probability_and_the_seed_decides(data):
    inputs, targets = (np.tile(part, (20,) + (1,) * (part.ndim - 1)) for part in data)
    model = network()
    start, trainer = model.get_weights(), PrivateTrainer(model)
    sizes, weights = [], []
    for seed in (0, 0, 1):
        model.set_weights(start)
        sizes.append(trainer.fit(inputs, targets, 60, 24, 0.1, noise_multiplier=0.5, seed=seed))
        weights.append(model.get_weights())
    variance = 240 * 0.1 * 0.9
    assert sizes[0].mean() == pytest.approx(24, abs=4 * math.sqrt(variance / 60))
    assert 0.5 < sizes[0].var() / variance < 1.7  # a fixed batch size would have none
    np.testing.assert_array_equal(sizes[0], sizes[1])
    for a, b, c in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 1e-3


@tensorflow_only
def test_it_learns(data):
    inputs, _ = data
    model = network()
    trainer = PrivateTrainer(model)
    for part in (inputs % 3)[:, 0], np.tile((inputs % 3)[:, :1], 4):  # a label, or one for each position
        if part.ndim == 2:
            tokens = keras.Input((4,), dtype="int32")
            model = keras.Model(tokens, keras.layers.Dense(3)(keras.layers.Embedding(7, 3)(tokens)))
            trainer = PrivateTrainer(model)
        before = float(keras.ops.mean(privacy.cross_entropy(part, model(inputs))))
        trainer.fit(inputs, part, 30, COUNT, 1.0, clip_norm=1.0, noise_multiplier=0.1)
        assert float(keras.ops.mean(privacy.cross_entropy(part, model(inputs)))) < before - 0.05


@pytest.mark.parametrize(
    ("rate", "sigma", "steps", "published", "within"),
    [
        (0.01, 4, 10_000, 1.26, 0.005),  # Abadi et al. 2016, section 3.2
        (256 / 60_000, 1.3, 15 * 60_000 // 256, 1.19, 0.01),  # the MNIST tutorial of TensorFlow Privacy
    ],
)
def test_the_budget_is_the_published_one(rate, sigma, steps, published, within):
    assert privacy_budget(rate, sigma, steps, 1e-5) == pytest.approx(published, abs=within)


@pytest.mark.parametrize("order", [2, 3, 16])
@pytest.mark.parametrize(("rate", "sigma"), [(0.01, 4), (0.2, 1.0), (1.0, 2.0)])
def test_the_divergence_is_the_integral(order, rate, sigma):
    def integrand(z):
        ratio = 1 - rate + rate * math.exp((2 * z - 1) / (2 * sigma**2))
        return ratio**order * math.exp(-(z**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    area, _ = integrate.quad(integrand, -10 * sigma, order + 10 * sigma, epsabs=1e-13, limit=500)
    assert renyi_divergence(rate, sigma, [order])[0] == pytest.approx(math.log(area) / (order - 1), rel=1e-5)
    if rate == 1:
        assert renyi_divergence(rate, sigma, [order])[0] == pytest.approx(order / (2 * sigma**2))


def test_the_budget_falls_with_noise_and_grows_with_what_is_done():
    by_noise = [privacy_budget(0.02, sigma, 200, 1e-5) for sigma in (0.5, 1, 2, 4)]
    by_steps = [privacy_budget(0.02, 1, steps, 1e-5) for steps in (0, 1, 10, 100, 1000)]
    by_rate = [privacy_budget(rate, 1, 100, 1e-5) for rate in (0, 0.01, 0.1, 1)]
    by_delta = [privacy_budget(0.02, 1, 100, delta) for delta in (0.1, 1e-3, 1e-6)]
    assert by_noise == sorted(by_noise, reverse=True) and len(set(by_noise)) == 4
    for values in (by_steps, by_rate, by_delta):
        assert values == sorted(values) and len(set(values)) == len(values)
    assert by_steps[0] == by_rate[0] == 0 and privacy_budget(0.02, 0, 1, 1e-5) == math.inf


def test_exposure_by_hand():
    losses = np.arange(8.0)
    found = exposure(np.tile(losses, (3, 1)), [0, 1, 7])
    np.testing.assert_allclose(found, [3, 2, 0])  # log2 8, one bit less for the second place, the last
    assert exposure(np.zeros((1, 1000)), [3]) == 0  # all alike: nothing is told
    ranks = np.arange(1, 100_001)
    assert exposure([ranks * 1.0], [0])[0] == pytest.approx(math.log2(100_000))
    unseen = exposure(np.random.default_rng(0).random((4000, 500)), np.zeros(4000, int))
    assert unseen.mean() == pytest.approx(1 / math.log(2), abs=0.1)


@tensorflow_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1; received steps=0"),
        ({"batch_size": 0}, "0 < batch_size <= N; received 12 inputs, 12 targets, batch_size=0"),
        ({"batch_size": 13}, "batch_size=13"),
        ({"targets": np.zeros(3, int)}, "received 12 inputs, 3 targets"),
        ({"clip_norm": 0}, "clip_norm must be above 0; received clip_norm=0"),
        ({"noise_multiplier": -1}, "noise_multiplier must be at least 0; received noise_multiplier=-1"),
        ({"clip_norm": math.inf}, "clip_norm must be finite where noise_multiplier is above 0"),
    ],
)
def test_bad_training(data, change, message):
    given = {"inputs": data[0], "targets": data[1], "steps": 1, "batch_size": 4, "learning_rate": 0.1}
    with pytest.raises(ValueError, match=message):
        PrivateTrainer(network()).fit(**given | change)


@tensorflow_only
def test_chunks_are_not_empty_and_other_backends_are_refused(monkeypatch, data):
    with pytest.raises(ValueError, match="chunk_size must be at least 1; received chunk_size=0"):
        PrivateTrainer(network(), chunk_size=0)
    model = network()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    message = "the backend must be tensorflow, for per-example gradients; received jax"
    with pytest.raises(RuntimeError, match=message):
        PrivateTrainer(model)
    with pytest.raises(RuntimeError, match=message):
        per_example_gradients(model, *data)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: renyi_divergence(1.5, 1), r"rate must lie in \[0, 1\] and .*received rate=1.5"),
        (lambda: renyi_divergence(0.5, 0), "noise_multiplier above 0; received .*noise_multiplier=0"),
        (lambda: renyi_divergence(0.5, 1, [1]), "must be at least 2"),
        (lambda: privacy_budget(0.1, 1, 10, 0), r"delta must lie in \(0, 1\); received delta=0"),
        (lambda: privacy_budget(0.1, -1, 10, 0.1), "noise_multiplier must be at least 0"),
        (lambda: privacy_budget(0.1, 1, -1, 0.1), "steps must be at least 0; received steps=-1"),
        (lambda: exposure(np.zeros(4), [0]), r"must be \(Q, D\)"),
        (lambda: exposure(np.zeros((1, 4)), [4]), "relevant must lie in"),
        (lambda: exposure(np.full((1, 4), np.nan), [3]), "scores must be numbers; received 4 that are NaN"),
    ],
)
def test_bad_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
