"""Attribution: closed forms, completeness, a planted token, padding, refusals."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from companion.attribution import (
    attention_rollout,
    gradient_times_input,
    integrated_gradients,
    occlusion,
    rollout,
)
from companion.classifiers import lstm_classifier, transformer_classifier
from companion.heads import classifier
from companion.inspection import attention_weights
from companion.models import bert, gpt, t5

TOKENS = np.array([[5, 6, 7, 8, 9], [9, 3, 5, 0, 0]])
REAL = TOKENS != 0
METHODS = [occlusion, gradient_times_input, integrated_gradients, attention_rollout]
GRADIENTS = [gradient_times_input, integrated_gradients]

has_gradients = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="gradients are taken on TensorFlow and JAX"
)


def bag(vocabulary_size=12, num_classes=3):
    """A linear model: the sum of the real tokens' vectors, times a matrix."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    vectors = layers.Embedding(vocabulary_size, 4, name="embedding")(tokens)
    real = ops.cast(ops.not_equal(tokens, 0), "float32")[..., None]
    return keras.Model(tokens, layers.Dense(num_classes, name="scores")(ops.sum(vectors * real, axis=1)))


def contributions(model, tokens, classes):
    table = model.get_layer("embedding").get_weights()[0]
    kernel = model.get_layer("scores").get_weights()[0]
    exact = (table @ kernel)[tokens]  # (B, T, C)
    return np.take_along_axis(exact, np.asarray(classes)[:, None, None], 2)[..., 0] * (tokens != 0)


def lively(model):
    """A model with random weights, but not so large that its answers are all near 0 and 1."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            noise = 0.2 * random.standard_normal(weight.shape)
            weight.assign(ops.convert_to_numpy(weight) + noise.astype("float32"))
    return model


def small(kind):
    """A model of the kind, and what it reads."""
    if kind == "bert":
        inputs = {"tokens": TOKENS, "segments": (TOKENS > 6).astype(int)}
        return classifier(bert(12, 8, 8, 2, 16, 2), 3), inputs
    if kind == "gpt":
        return classifier(gpt(12, 8, 8, 2, 16, 2), 3, padding_id=0), TOKENS
    if kind == "lstm":
        return lstm_classifier(12, 3, 8, 8), TOKENS
    return transformer_classifier(12, 3, 8, 16, 2, 16, 2), TOKENS


def answers(model, inputs):
    inputs = inputs if isinstance(inputs, dict) else {"tokens": inputs}
    inputs = [inputs[x.name] for x in model.inputs]
    return ops.convert_to_numpy(model(inputs if len(inputs) > 1 else inputs[0]))


@has_gradients
@pytest.mark.backend
@pytest.mark.parametrize("method", [occlusion, gradient_times_input, integrated_gradients])
@pytest.mark.parametrize("target", [1, [2, 0]])
def test_of_a_linear_model_each_score_is_the_exact_contribution(method, target):
    model = bag()
    expected = contributions(model, TOKENS, np.broadcast_to(target, 2))
    np.testing.assert_allclose(method(model, TOKENS, target), expected, atol=1e-6)


@has_gradients
def test_the_largest_class_is_explained_unless_one_is_named():
    model = bag()
    classes = answers(model, TOKENS).argmax(axis=1)
    for method in (occlusion, *GRADIENTS):
        np.testing.assert_array_equal(method(model, TOKENS), method(model, TOKENS, classes))
        assert np.abs(method(model, TOKENS) - method(model, TOKENS, (classes + 1) % 3)).max() > 1e-3


@has_gradients
@pytest.mark.backend
@pytest.mark.parametrize(
    ("kind", "baseline_id"), [("lstm", None), ("lstm", 1), ("bert", None), ("bert", 1), ("transformer", 1)]
)
def test_integrated_gradients_sum_to_the_difference_of_the_answers(kind, baseline_id):
    model, inputs = small(kind)
    lively(model)
    steps = 256 if kind == "transformer" else 32  # it turns more sharply
    scores = integrated_gradients(model, inputs, [0, 2], baseline_id, steps)
    embedding = model.get_layer("embedding")
    if baseline_id is None:  # zeros for vectors, by a model whose table and positions are zeros
        before = embedding.get_weights()
        difference = answers(model, inputs)
        embedding.set_weights([np.zeros_like(one) for one in before])
        difference = difference - answers(model, inputs)
        embedding.set_weights(before)
    else:
        values = inputs if isinstance(inputs, dict) else {"tokens": inputs}
        other = values | {"tokens": np.where(REAL, baseline_id, 0)}
        difference = answers(model, values) - answers(model, other)
    expected = difference[[0, 1], [0, 2]]
    assert np.abs(expected).min() > 0.002
    np.testing.assert_allclose(scores.sum(axis=1), expected, rtol=0.01, atol=1e-5)


@has_gradients
def test_one_step_is_not_complete():
    model, inputs = small("transformer")
    lively(model)
    one, many = (integrated_gradients(model, inputs, 0, 1, steps).sum(axis=1) for steps in (1, 64))
    assert np.abs(one - many).max() > 0.01


@has_gradients
@pytest.mark.backend
def test_padding_scores_nothing_and_changes_nothing():
    longer = np.pad(TOKENS, ((0, 0), (0, 2)))
    for kind in ("transformer", "lstm"):
        model = lively(small(kind)[0])
        for method in METHODS if kind == "transformer" else METHODS[:-1]:
            scores, wider = method(model, TOKENS), method(model, longer)
            assert scores.shape == TOKENS.shape and scores.dtype == np.float32
            assert (scores[~REAL] == 0).all() and (scores[REAL] != 0).all()
            np.testing.assert_allclose(wider[:, :5], scores, atol=1e-5)
            assert (wider[:, 5:] == 0).all()


def test_padding_of_another_id():
    model = classifier(bert(12, 8, 8, 2, 16, 1, padding_id=11), 2)
    tokens = np.where(REAL, TOKENS, 11)
    inputs = {"tokens": tokens, "segments": np.zeros_like(tokens)}
    for scores in (
        occlusion(model, inputs, padding_id=11, replacement_id=11),
        attention_rollout(model, inputs, "first", padding_id=11),
    ):
        assert (scores[~REAL] == 0).all() and (scores[REAL] != 0).all()


def test_occlusion_is_the_answer_without_the_token():
    model = lively(small("transformer")[0])
    for replacement in (0, 1):
        scores = occlusion(model, TOKENS, 2, replacement)
        without = TOKENS.copy()
        without[:, 1] = replacement
        expected = (answers(model, TOKENS) - answers(model, without))[:, 2]
        np.testing.assert_allclose(scores[:, 1], expected, atol=1e-6)


def test_a_planted_token_comes_first():
    """Class 1 is where token 3 stands, somewhere; each method says so, and so does their map."""
    random = np.random.default_rng(0)
    tokens = random.integers(4, 20, (512, 8))
    labels = random.integers(0, 2, 512)
    places = random.integers(0, 8, 512)
    tokens[labels == 1, places[labels == 1]] = 3
    model = transformer_classifier(20, 2, 8, 16, 2, 32, 1, dropout=0.0)
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(tokens[64:], labels[64:], 64, 8, verbose=0)
    held, places = tokens[:64][labels[:64] == 1], places[:64][labels[:64] == 1]
    scores = {"occlusion": occlusion(model, held, 1), "rollout": attention_rollout(model, held)}
    if keras.backend.backend() != "torch":
        scores |= {method.__name__: method(model, held, 1) for method in GRADIENTS}
    for name, rows in scores.items():
        assert (rows.argmax(axis=1) == places).mean() > 0.9, name

    figure = pytest.importorskip("matplotlib.figure", reason="PyTorch's environment draws nothing")
    from companion.token_maps import attribution_map

    tokens = [f"token {i}" for i in held[0]]
    ax = attribution_map(
        {name: rows[0] for name, rows in scores.items()}, tokens, ax=figure.Figure().subplots()
    )
    colors = ax.collections[0].get_array().reshape(len(scores), 8)
    assert (colors.argmax(axis=1) == tokens.index("token 3")).all() and (colors.max(axis=1) == 1).all()


def test_rollout_of_two_blocks_by_hand():
    """Half of [[1, 0], [.5, .5]] and of [[0, 1], [0, 1]] each with half of the identity, multiplied."""
    first = np.array(
        [[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]]
    )  # two heads; mean [[1,0],[.5,.5]]
    second = np.array([[[[0.0, 1.0], [0.0, 1.0]]] * 2])
    expected = np.array([[[0.625, 0.375], [0.25, 0.75]]])  # [[.5,.5],[0,1]] @ [[1,0],[.25,.75]]
    np.testing.assert_allclose(rollout([first, second]), expected)
    np.testing.assert_allclose(rollout([second, first]), [[[0.5, 0.5], [0.125, 0.875]]])


def test_rollout_rows_sum_to_one(rng):
    weights = rng.random((3, 2, 4, 6, 6))
    weights /= weights.sum(axis=-1, keepdims=True)
    result = rollout(list(weights))
    assert result.shape == (2, 6, 6) and (result > 0).all()
    np.testing.assert_allclose(result.sum(axis=-1), 1)


@pytest.mark.backend
@pytest.mark.parametrize("reader", ["mean", "first", "last"])
@pytest.mark.parametrize("kind", ["transformer", "bert", "gpt"])
def test_attention_rollout_reads_where_it_is_told(kind, reader):
    model, inputs = small(kind)
    lively(model)
    scores = attention_rollout(model, inputs, reader)
    blocks = attention_weights(model, inputs).values()
    flow = rollout([one[0] if kind == "gpt" else one for one in blocks])
    rows = {"mean": [range(5), range(3)], "first": [[0], [0]], "last": [[4], [2]]}[reader]
    expected = np.stack([one[list(places)].mean(axis=0) for one, places in zip(flow, rows, strict=True)])
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)


@pytest.mark.backend
@pytest.mark.parametrize(
    ("tokens", "target", "message"),
    [
        (TOKENS[0], None, r"tokens must be \(B, T\) int; received \(5,\) int64"),
        (TOKENS + 0.5, None, r"tokens must be \(B, T\) int; received \(2, 5\) float64"),
        (TOKENS, 3, "target must be a class below 3, or 2 of them; received target=3"),
        (TOKENS, -1, "target must be a class below 3"),
        (TOKENS, [0], "target must be a class below 3, or 2 of them"),
        (TOKENS, 0.5, "target must be a class below 3"),
    ],
)
def test_refuses_tokens_and_targets(tokens, target, message):
    with pytest.raises(ValueError, match=message):
        occlusion(bag(), tokens, target)


def test_refuses_models_that_do_not_fit():
    with pytest.raises(ValueError, match="inputs hold what it reads.*received 'bert_classifier'.*segments"):
        occlusion(small("bert")[0], TOKENS)
    with pytest.raises(ValueError, match="a number per class come out; received 'gpt'"):
        occlusion(gpt(12, 8, 8, 2, 16, 1), TOKENS)
    with pytest.raises(ValueError, match="must read tokens"):
        occlusion(t5(12, 8, 2, 16, 1), {"source_tokens": TOKENS, "target_tokens": TOKENS})
    with pytest.raises(ValueError, match="model must hold EncoderBlock or DecoderBlock"):
        attention_rollout(small("lstm")[0], TOKENS)


def test_refuses_a_model_without_a_table():
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    model = keras.Model(tokens, layers.Dense(2)(ops.cast(tokens, "float32")), name="no_table")
    with pytest.raises(ValueError, match="look its tokens up in a table; received 'no_table'"):
        gradient_times_input(model, TOKENS)


def test_refuses_other_arguments():
    model = small("transformer")[0]
    with pytest.raises(ValueError, match="steps must be at least 1; received steps=0"):
        integrated_gradients(model, TOKENS, steps=0)
    with pytest.raises(ValueError, match="reader must be one of .*; received reader='middle'"):
        attention_rollout(model, TOKENS, "middle")
    with pytest.raises(ValueError, match="must hold a token; received padding alone in row 1"):
        attention_rollout(model, TOKENS * [[1], [0]])
    for weights in ([], [np.ones((2, 2))], [np.ones((1, 1, 2, 2)), np.ones((1, 1, 3, 3))]):
        with pytest.raises(ValueError, match="weights must be arrays of one shape"):
            rollout(weights)


def test_refuses_a_backend_without_gradients(monkeypatch):
    model = bag()
    monkeypatch.setattr(keras.backend, "backend", lambda: "openvino")
    with pytest.raises(RuntimeError, match="backend tensorflow or jax; received 'openvino'"):
        gradient_times_input(model, TOKENS)
