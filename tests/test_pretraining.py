"""The chunked loss beside NumPy's, its memory, the trainer beside Keras's own training, learning rates."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from companion.models import bert, gpt, t5, transformer
from companion.pretraining import (
    Pretrainer,
    WarmupCosine,
    WarmupInverseSqrt,
    chunked_cross_entropy,
    vocabulary_head,
)

pytestmark = pytest.mark.backend
SIZES = {"model_dim": 8, "num_heads": 2, "hidden_dim": 16, "num_layers": 1, "dropout": 0.0}
V, T = 30, 8
ON_JAX = keras.backend.backend() == "jax"


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, atol=tolerance, rtol=tolerance)


def value_and_gradients(function, *arrays):
    """What a function of arrays gives, and its gradient by each of them, as NumPy arrays."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(x) for x in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        gradients = tape.gradient(value, tensors)
    elif keras.backend.backend() == "jax":
        import jax

        numbers = tuple(range(len(arrays)))
        value, gradients = jax.jit(jax.value_and_grad(function, numbers))(*map(ops.convert_to_tensor, arrays))
    else:
        tensors = [ops.convert_to_tensor(x).requires_grad_() for x in arrays]
        value = function(*tensors)
        value.backward()
        gradients = [x.grad for x in tensors]
    return [ops.convert_to_numpy(ops.cast(x, "float32")) for x in (value, *gradients)]


def oracle(hidden, table, labels, weights, bias=0.0):
    """float64; one row after another."""
    value, total = 0.0, max(weights.sum(), 1e-9)
    gradients = [np.zeros(x.shape) for x in (hidden, table)] + [np.zeros(len(table))]
    for i, (row, label, weight) in enumerate(zip(hidden.astype("float64"), labels, weights, strict=True)):
        scores = table @ row + bias
        powers = np.exp(scores - scores.max())
        value -= weight / total * np.log(powers[label] / powers.sum())
        difference = weight / total * (powers / powers.sum() - np.eye(len(table))[label])
        gradients[0][i] = difference @ table
        gradients[1] += np.outer(difference, row)
        gradients[2] += difference
    return value, *gradients


def problem(rng, rows, vocabulary, width):
    hidden, table = rng.standard_normal((rows, width)), rng.standard_normal((vocabulary, width))
    labels = rng.integers(0, vocabulary, rows)
    weights = rng.random(rows) * (rng.random(rows) < 0.7)
    return [x.astype("float32") for x in (hidden, table)], labels, weights.astype("float32")


# The loss


def test_two_tokens_by_hand():
    hidden, table = np.float32([[1], [1]]), np.float32([[0], [1]])
    close(chunked_cross_entropy(hidden, table, [0, 0]), math.log(1 + math.e))
    close(chunked_cross_entropy(hidden, table, [0, 1], [3.0, 1.0]), math.log(1 + math.e) - 0.25)
    close(chunked_cross_entropy(hidden, table, [0, 0], bias=np.float32([1, 0])), math.log(2))


@pytest.mark.parametrize(
    ("rows", "vocabulary", "width", "chunk_size"), [(7, 5, 3, 2), (8, 5, 3, 4), (3, 11, 2, 64), (5, 1, 1, 1)]
)
@pytest.mark.parametrize("biased", [False, True])
def test_the_loss_and_its_gradients_are_those_of_numpy(rng, rows, vocabulary, width, chunk_size, biased):
    arrays, labels, weights = problem(rng, rows, vocabulary, width)
    arrays += [rng.standard_normal(vocabulary).astype("float32")] * biased

    def loss(hidden, table, *bias):
        return 3.0 * chunked_cross_entropy(hidden, table, labels, weights, *bias, chunk_size=chunk_size)

    expected = oracle(*arrays[:2], labels, weights, *arrays[2:])
    for one, other in zip(value_and_gradients(loss, *arrays), expected, strict=False):
        close(one, 3 * other)


def test_without_weights_all_rows_count_alike(rng):
    arrays, labels, _ = problem(rng, 6, 4, 3)
    close(chunked_cross_entropy(*arrays, labels), oracle(*arrays, labels, np.ones(6))[0])


def test_weights_of_zero_give_zero(rng):
    arrays, labels, weights = problem(rng, 5, 4, 3)
    for x in value_and_gradients(lambda *both: chunked_cross_entropy(*both, labels, 0 * weights), *arrays):
        assert not x.any()


def test_scores_beyond_the_range_of_exp_do_no_harm():
    hidden, table = np.float32([[1000]]), np.float32([[-1], [1], [1]])
    value, by_hidden, by_table = value_and_gradients(
        lambda *both: chunked_cross_entropy(*both, [0]), hidden, table
    )
    close(value, 2000 + math.log(2))
    close(by_hidden, [[2]])
    close(by_table, [[-1000], [500], [500]])


def test_half_precision_multiplies_in_it_and_adds_up_in_float32(rng):
    arrays, labels, weights = problem(rng, 64, 12, 16)
    weights[:] = 1

    def loss(hidden, table):
        return chunked_cross_entropy(ops.cast(hidden, "bfloat16"), table, labels, weights, chunk_size=8)

    value, *gradients = value_and_gradients(loss, *arrays)
    expected, *others = oracle(*arrays, labels, weights)
    close(value, expected, 0.02)
    for one, other in zip(gradients, others, strict=False):
        assert np.abs(one - other).max() < 0.03 * np.abs(other).max()
    rounded = ops.convert_to_numpy(ops.cast(ops.cast(gradients[1], "bfloat16"), "float32"))
    assert np.abs(gradients[1] - rounded).max() > 0  # the table's gradient keeps its digits


def test_a_certain_label_never_gives_a_loss_below_zero_in_half_precision(rng):
    hidden = rng.standard_normal((40, 16)).astype("float32")
    hidden = ops.cast(hidden * 8, "bfloat16")
    labels = np.arange(40)
    assert float(ops.convert_to_numpy(chunked_cross_entropy(hidden, hidden, labels))) >= 0


def test_chunk_size_is_checked(rng):
    arrays, labels, _ = problem(rng, 2, 2, 2)
    with pytest.raises(ValueError, match="chunk_size must be at least 1; received chunk_size=0"):
        chunked_cross_entropy(*arrays, labels, chunk_size=0)


def test_the_logits_are_never_all_in_memory(fresh_python):
    printed = fresh_python("""
import resource
import keras, numpy as np
from companion.pretraining import Pretrainer

vocabulary, rows = 20_000, 8192
tokens = keras.Input((rows,), dtype="int32")
x = keras.layers.Embedding(7, 4)(tokens)
trainer = Pretrainer(keras.Model(tokens, keras.layers.Dense(vocabulary)(x)))
trainer.compile("sgd", jit_compile=keras.backend.backend() == "jax")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
short = np.zeros((1, rows), "int32")
before = peak()
trainer.train_on_batch(short, short)
print(peak() - before)
""")
    megabytes = 8192 * 20_000 * 4 / 2**20
    assert float(printed.split()[-1]) < 0.75 * megabytes  # Keras's own loss takes twice as much at the least


# The trainer

MODELS = {
    "gpt": lambda: gpt(V, T, **SIZES),
    "bert": lambda: bert(V, T, **SIZES),
    "t5": lambda: t5(V, **SIZES),
    "t5, untied": lambda: t5(V, **SIZES, tied=False),
    "transformer": lambda: transformer(V, V, T, **SIZES),
    "transformer, shared": lambda: transformer(V, V, T, **SIZES, shared=True),
}
each_model = pytest.mark.parametrize("name", MODELS)


def examples(model, rng, rows=6):
    tokens, labels = rng.integers(1, V, (2, rows, T)).astype("int32")
    second = {"segments": tokens % 2}
    inputs = {x.name: second.get(x.name, tokens) for x in model.inputs}
    return inputs if len(inputs) > 1 else tokens, labels


def logits(model, inputs):
    out = model(inputs, training=False)
    return ops.convert_to_numpy(out[-1] if isinstance(out, list | tuple) else out)


def negative_log_likelihood(model, inputs, labels):
    scores = logits(model, inputs).astype("float64")
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(scores, labels[..., None], axis=-1)[..., 0]


def twins(make, randomized):
    ours, theirs = randomized(make()), make()
    theirs.set_weights(ours.get_weights())
    return ours, theirs


def compiled(model, optimizer=None, xla=ON_JAX, **settings):
    trainer = Pretrainer(model, **settings)
    trainer.compile(optimizer or keras.optimizers.SGD(0.1), jit_compile=xla)
    return trainer


@each_model
def test_evaluate_gives_the_mean_over_all_weighted_tokens(name, rng, randomized):
    model = randomized(MODELS[name]())
    inputs, labels = examples(model, rng)
    weights = (rng.random(labels.shape) < np.linspace(0.1, 0.9, 6)[:, None]).astype("float32")
    nll = negative_log_likelihood(model, inputs, labels)
    trainer = compiled(model, chunk_size=5)
    loss = trainer.evaluate(inputs, labels, sample_weight=weights, batch_size=4, verbose=0)
    close(loss, (nll * weights).sum() / weights.sum(), 1e-4)
    close(trainer.evaluate(inputs, labels, batch_size=4, verbose=0), nll.mean(), 1e-4)


@each_model
def test_a_step_changes_the_weights_as_a_step_of_keras_does(name, rng, randomized):
    ours, theirs = twins(MODELS[name], randomized)
    inputs, labels = examples(ours, rng)
    before = [x.numpy().copy() for x in ours.weights]
    logged = compiled(ours).fit(inputs, labels, batch_size=6, verbose=0).history["loss"]
    plain = keras.Model(theirs.inputs, theirs.outputs[-1])
    plain.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    plain.fit(list(inputs.values()) if isinstance(inputs, dict) else inputs, labels, batch_size=6, verbose=0)
    close(logged[0], plain.history.history["loss"][0], 1e-4)
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        close(one.numpy(), other.numpy(), 1e-4)
    changed = [np.abs(x.numpy() - old).max() > 0 for x, old in zip(ours.weights, before, strict=True)]
    assert np.mean(changed) > 0.8


def test_the_trainer_has_the_weights_that_lead_to_the_logits_and_no_others():
    model = bert(V, T, **SIZES)
    trainer = Pretrainer(model)
    ours, theirs = ({id(x): x.path for x in some.weights} for some in (trainer, model))
    assert ours.keys() < theirs.keys()
    assert {theirs[x] for x in theirs.keys() - ours.keys()} == {"pooler/kernel", "pooler/bias"}
    model = t5(V, **SIZES, tied=False)
    assert {id(x) for x in Pretrainer(model).weights} == {id(x) for x in model.weights}


def test_few_labels_give_the_same_loss_and_step_as_all(rng, randomized):
    ours, theirs = twins(lambda: bert(V, T, **SIZES), randomized)
    inputs, labels = examples(ours, rng)
    weights = np.zeros(labels.shape, "float32")
    weights[np.arange(6)[:, None], rng.permuted(np.tile(np.arange(T), (6, 1)), axis=1)[:, :3]] = 1
    weights[0] = 0
    for model, some in ((ours, 3), (theirs, None)):
        compiled(model, labels_per_row=some).fit(
            inputs, labels, sample_weight=weights, batch_size=6, verbose=0
        )
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        close(one.numpy(), other.numpy())
    losses = [
        compiled(ours, labels_per_row=some).evaluate(inputs, labels, sample_weight=weights, verbose=0)
        for some in (3, 5, None, 2)
    ]
    close(losses[:2], losses[2])
    assert np.isnan(losses[3])  # a row has 3


def test_one_row_with_a_label_too_many_is_noticed_in_a_large_batch():
    weights = np.zeros((256, T), "float32")
    weights[:, :3] = 1
    weights[0, 3] = 1  # one of 769
    trainer = compiled(gpt(V, T, **SIZES), labels_per_row=3)
    tokens = np.ones((256, T), int)
    settings = {"batch_size": 256, "verbose": 0}
    assert np.isnan(trainer.evaluate(tokens, tokens, sample_weight=weights, **settings))
    weights[0, 3] = 0
    assert np.isfinite(trainer.evaluate(tokens, tokens, sample_weight=weights, **settings))


def test_a_penalty_in_half_precision_is_added(rng, under_policy):
    with under_policy("mixed_bfloat16"):
        tokens = keras.Input((T,), dtype="int32")
        penalized = keras.layers.Dense(4, activity_regularizer="l2")
        x = penalized(keras.layers.Embedding(V, 4)(tokens))
        model = keras.Model(tokens, keras.layers.Dense(V)(x))
    inputs, labels = examples(model, rng)
    before = penalized.kernel.numpy().copy()
    compiled(model).train_on_batch(inputs, labels, sample_weight=np.zeros(labels.shape))
    after = penalized.kernel.numpy()  # nothing is asked for: the penalty alone
    assert np.isfinite(after).all() and (after != before).any()


@pytest.mark.parametrize("name", ["loss", "metrics", "weighted_metrics"])
def test_a_loss_of_ones_own_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be left out, .* received 'mse'"):
        Pretrainer(gpt(V, T, **SIZES)).compile("sgd", **{name: "mse"})


def test_the_penalty_of_a_layer_is_added(rng):
    tokens = keras.Input((T,), dtype="int32")
    penalized = keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.5))
    x = penalized(keras.layers.Embedding(V, 4)(tokens))
    model = keras.Model(tokens, keras.layers.Dense(V)(x))
    inputs, labels = examples(model, rng)
    before = penalized.kernel.numpy().copy()
    compiled(model).train_on_batch(inputs, labels, sample_weight=np.zeros(labels.shape))
    close(penalized.kernel.numpy(), 0.9 * before)  # nothing is asked for: the penalty alone


def test_accumulated_halves_of_a_batch_give_the_step_of_the_whole(rng, randomized):
    ours, theirs = twins(lambda: gpt(V, T, **SIZES), randomized)
    inputs, labels = examples(ours, rng)
    halves = keras.optimizers.SGD(0.1, global_clipnorm=0.5, gradient_accumulation_steps=2)
    compiled(ours, halves).fit(inputs, labels, batch_size=3, shuffle=False, verbose=0)
    compiled(theirs, keras.optimizers.SGD(0.1, global_clipnorm=0.5)).fit(
        inputs, labels, batch_size=6, verbose=0
    )
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        close(one.numpy(), other.numpy())


def test_clipped_gradients_move_the_weights_by_no_more_than_the_limit(rng, randomized):
    model = randomized(gpt(V, T, **SIZES))
    inputs, labels = examples(model, rng)
    before = [x.numpy().copy() for x in model.weights]
    compiled(model, keras.optimizers.SGD(1.0, global_clipnorm=0.01)).train_on_batch(inputs, labels)
    moved = sum(((x.numpy() - old) ** 2).sum() for x, old in zip(model.weights, before, strict=True))
    close(np.sqrt(moved), 0.01, 1e-4)


@pytest.mark.parametrize("xla", ["auto"] if ON_JAX else [False, "auto"])  # uncompiled, JAX is slow
def test_a_model_learns_what_comes_next(xla):
    tokens = np.tile(np.arange(T + 1) % 3, (16, 1))
    trainer = compiled(gpt(V, T, **SIZES), keras.optimizers.Adam(0.03), xla=xla, chunk_size=50)
    data = tokens[:, :-1], tokens[:, 1:]
    losses = trainer.fit(*data, batch_size=12, epochs=40, verbose=0).history["loss"]
    assert losses[0] > 3 and losses[-1] < 0.3


def test_mixed_precision_trains(rng, under_policy):
    with under_policy("mixed_bfloat16"):
        model = gpt(V, T, **SIZES)
    inputs, labels = examples(model, rng)
    trainer = compiled(model)
    exact = negative_log_likelihood(model, inputs, labels).mean()
    close(trainer.evaluate(inputs, labels, verbose=0), exact, 0.02)
    assert np.isfinite(trainer.train_on_batch(inputs, labels))


def test_the_loss_of_a_float16_model_is_scaled_whatever_the_policy_when_it_is_trained(rng, under_policy):
    with under_policy("mixed_float16"):
        model = gpt(V, T, **SIZES)
    inputs, labels = examples(model, rng)
    trainer = compiled(model)
    assert isinstance(trainer.optimizer, keras.optimizers.LossScaleOptimizer)
    assert not isinstance(compiled(gpt(V, T, **SIZES)).optimizer, keras.optimizers.LossScaleOptimizer)
    before = model.get_weights()
    trainer.train_on_batch(inputs, labels, sample_weight=np.zeros(labels.shape))  # nothing is asked for
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    trainer.train_on_batch(inputs, labels)
    assert all(np.isfinite(array).all() for array in model.get_weights())
    assert any((one != other).any() for one, other in zip(model.get_weights(), before, strict=True))


def test_models_that_do_not_end_in_logits_are_refused():
    tokens = keras.Input((T,), dtype="int32")
    x = keras.layers.Dense(V, "softmax")(keras.layers.Embedding(V, 4)(tokens))
    assert vocabulary_head(keras.Model(tokens, x)) is None
    with pytest.raises(ValueError, match="model must end in a TokenPositionEmbedding .* or a Dense"):
        Pretrainer(keras.Model(tokens, x))
    with pytest.raises(ValueError, match="model must end in .* received 'bert'"):
        Pretrainer(bert(V, T, **SIZES, masked_lm=False))
    with pytest.raises(ValueError, match="labels_per_row must be at least 1; received labels_per_row=0"):
        Pretrainer(gpt(V, T, **SIZES), labels_per_row=0)
    with pytest.raises(ValueError, match="chunk_size must be at least 1; received chunk_size=0"):
        Pretrainer(gpt(V, T, **SIZES), chunk_size=0)


def test_the_head_of_a_model_is_found():
    model = bert(V, T, **SIZES)
    layer, hidden = vocabulary_head(model)
    assert layer is model.get_layer("embedding") and hidden.shape == (None, None, 8)
    assert vocabulary_head(model, 0) is None
    model = transformer(V, V, T, **SIZES)
    assert vocabulary_head(model)[0] is model.get_layer("logits")


# Learning rates


def rates(schedule, steps):
    return [float(ops.convert_to_numpy(schedule(step))) for step in steps]


def test_warm_up_then_the_inverse_square_root():
    close(rates(WarmupInverseSqrt(0.4, 4), [0, 1, 3, 4, 15, 63]), [0.1, 0.2, 0.4, 0.4 * 0.8**0.5, 0.2, 0.1])
    peak, warmup = (512 * 4000) ** -0.5, 4000  # Vaswani et al. 2017, section 5.3
    formula = [512**-0.5 * min(n**-0.5, n * 4000**-1.5) for n in (1, 100, 4000, 100_000)]
    close(rates(WarmupInverseSqrt(peak, warmup), [0, 99, 3999, 99_999]), formula, 1e-8)


def test_warm_up_then_half_a_cosine():
    schedule = WarmupCosine(0.4, 2, 10, floor=0.1)
    close(rates(schedule, [0, 1, 5, 9, 10, 1000]), [0.2, 0.4, 0.25, 0.1, 0.1, 0.1])
    close(rates(WarmupCosine(1.0, 1, 5), [0, 1, 2, 3, 4]), [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0])


@pytest.mark.parametrize("schedule", [WarmupInverseSqrt(0.3, 2), WarmupCosine(0.3, 2, 7, 0.1)])
def test_an_optimizer_takes_the_schedule_and_is_restored_with_it(schedule):
    optimizer = keras.optimizers.SGD(schedule)
    weight = keras.Variable(1.0)
    optimizer.build([weight])
    optimizer.apply([ops.convert_to_tensor(1.0)])
    close(weight.numpy(), 1 - 0.15)
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)).get_config()
    assert restored == optimizer.get_config()


def test_numbers_of_schedules_are_checked():
    with pytest.raises(ValueError, match="warmup_steps must be at least 1; received warmup_steps=0"):
        WarmupInverseSqrt(0.1, 0)
    with pytest.raises(ValueError, match="total_steps must be above warmup_steps=5; received total_steps=5"):
        WarmupCosine(0.1, 5, 5)
    with pytest.raises(ValueError, match="peak must be above 0; received peak=0.0"):
        WarmupCosine(0.0, 1, 2)
    with pytest.raises(ValueError, match="floor must be from 0 to peak=0.1; received floor=0.2"):
        WarmupCosine(0.1, 5, 9, 0.2)
