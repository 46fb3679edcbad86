"""Heads on pretrained models, beside NumPy; padding that changes nothing; tasks that they learn."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from companion import bert, gpt, lstm_language_model, t5
from companion.heads import best_span, classifier, span_finder, tagger
from companion.pretraining import vocabulary_head

pytestmark = pytest.mark.backend
TOKENS = np.array([[5, 6, 7, 8, 9, 3], [9, 8, 7, 0, 0, 0], [4, 0, 0, 0, 0, 0]])
REAL = TOKENS != 0
SEGMENTS = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]])


def small_bert(**settings):
    return bert(12, 16, 8, 2, 16, 1, **settings)


def values(model, *inputs):
    outputs = model(list(inputs) if len(inputs) > 1 else inputs[0])
    arrays = [ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]
    return arrays[0] if len(arrays) == 1 else arrays


def softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def dense(layer, x):
    bias = 0 if layer.bias is None else ops.convert_to_numpy(layer.bias)
    return x @ ops.convert_to_numpy(layer.kernel) + bias


def padded(*arrays):
    return [np.pad(array, ((0, 0), (0, 4))) for array in arrays]


def test_a_classifier_reads_the_pooled_vector(randomized):
    for masked_lm in (True, False):
        model = randomized(small_bert(masked_lm=masked_lm))
        head = classifier(model, 3)
        pooled = values(model, TOKENS, SEGMENTS)[1]
        expected = softmax(dense(head.get_layer("probabilities"), pooled))
        np.testing.assert_allclose(values(head, TOKENS, SEGMENTS), expected, atol=1e-6)


def test_a_classifier_without_a_pooled_vector_reads_the_mean_of_the_real_tokens(randomized):
    model = randomized(small_bert(pooler=False))
    head = classifier(model, 3)
    hidden = values(model, TOKENS, SEGMENTS)[0]
    mean = np.stack([row[real].mean(axis=0) for row, real in zip(hidden, REAL, strict=True)])
    expected = softmax(dense(head.get_layer("probabilities"), mean))
    np.testing.assert_allclose(values(head, TOKENS, SEGMENTS), expected, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        lambda: gpt(12, 16, 8, 2, 16, 1),
        lambda: gpt(12, 16, 8, 2, 16, 1, padding_id=0),
        lambda: lstm_language_model(12, 8, 8),
    ],
)
def test_a_classifier_on_a_causal_model_reads_the_last_real_token(model, randomized):
    model = randomized(model())
    head = classifier(model, 3, padding_id=0)
    hidden = values(keras.Model(model.inputs, vocabulary_head(model, 0)[1]), TOKENS)
    last = hidden[np.arange(3), [5, 2, 0]]
    expected = softmax(dense(head.get_layer("probabilities"), last))
    np.testing.assert_allclose(values(head, TOKENS), expected, atol=1e-6)
    for tokens, row in zip(TOKENS, expected, strict=True):
        np.testing.assert_allclose(values(head, tokens[None, tokens != 0])[0], row, atol=1e-5)


def test_the_real_tokens_are_those_that_the_model_takes_for_real(randomized):
    tokens = np.where(TOKENS == 0, 11, TOKENS)
    for make in (lambda model: classifier(model, 2), span_finder):
        by_zero, by_eleven = (randomized(small_bert(pooler=False, padding_id=i)) for i in (0, 11))
        by_eleven.set_weights(by_zero.get_weights())
        heads = make(by_zero), make(by_eleven)
        heads[1].set_weights(heads[0].get_weights())
        for one, other in zip(
            values(heads[0], TOKENS, SEGMENTS), values(heads[1], tokens, SEGMENTS), strict=True
        ):
            np.testing.assert_allclose(one[:1], other[:1], atol=1e-6)  # the row without padding
        assert np.isfinite(values(heads[1], np.full((1, 4), 11), np.zeros((1, 4)))).all()
    masking = gpt(12, 16, 8, 2, 16, 1, padding_id=0)
    np.testing.assert_array_equal(
        values(classifier(masking, 2), TOKENS).shape,
        values(classifier(masking, 2, padding_id=0), TOKENS).shape,
    )


def test_a_tagger_reads_every_token(randomized):
    for model, inputs in ((small_bert(), (TOKENS, SEGMENTS)), (gpt(12, 16, 8, 2, 16, 1), (TOKENS,))):
        randomized(model)
        hidden = model.outputs[0] if model.name == "bert" else vocabulary_head(model, 0)[1]
        head = tagger(model, 4)
        expected = dense(head.get_layer("probabilities"), values(keras.Model(model.inputs, hidden), *inputs))
        np.testing.assert_allclose(values(head, *inputs), softmax(expected), atol=1e-6)


def test_a_span_finder_chooses_among_the_real_tokens(randomized):
    model = randomized(small_bert())
    head = span_finder(model)
    hidden = values(model, TOKENS, SEGMENTS)[0]
    scores = np.where(REAL[:, :, None], dense(head.get_layer("span"), hidden), -np.inf)
    start, end = values(head, TOKENS, SEGMENTS)
    np.testing.assert_allclose(start, softmax(scores[:, :, 0]), atol=1e-6)
    np.testing.assert_allclose(end, softmax(scores[:, :, 1]), atol=1e-6)
    assert not start[~REAL].any() and not end[~REAL].any()


def test_more_padding_changes_nothing(randomized):
    model = randomized(small_bert())
    before, after = (TOKENS, SEGMENTS), padded(TOKENS, SEGMENTS)
    head = classifier(model, 2)
    np.testing.assert_allclose(values(head, *before), values(head, *after), atol=1e-6)
    head = tagger(model, 2)
    np.testing.assert_allclose(values(head, *before)[REAL], values(head, *after)[:, :6][REAL], atol=1e-6)
    for short, long in zip(
        values(span_finder(model), *before), values(span_finder(model), *after), strict=True
    ):
        assert short.shape == (3, 6) and long.shape == (3, 10)
    head = span_finder(model)
    for short, long in zip(values(head, *before), values(head, *after), strict=True):
        np.testing.assert_allclose(np.pad(short, ((0, 0), (0, 4))), long, atol=1e-6)
    head = classifier(gpt(12, 16, 8, 2, 16, 1), 2, padding_id=0)
    np.testing.assert_allclose(values(head, TOKENS), values(head, *padded(TOKENS)), atol=1e-6)


def test_a_text_of_padding_alone_gives_finite_numbers(randomized):
    nothing = np.zeros((1, 4), "int32")
    for pooler in (True, False):
        model = randomized(small_bert(pooler=pooler))
        for head in (classifier(model, 2), tagger(model, 2), span_finder(model)):
            for output in keras.tree.flatten(values(head, nothing, nothing)):
                assert np.isfinite(output).all()
        np.testing.assert_allclose(values(span_finder(model), nothing, nothing), 0.25)
    assert np.isfinite(values(classifier(gpt(12, 16, 8, 2, 16, 1), 2, padding_id=0), nothing)).all()


def test_the_head_shares_the_weights_of_the_model():
    model = small_bert()
    head = classifier(model, 2)
    new = {"probabilities/kernel", "probabilities/bias"}
    assert {weight.path for weight in head.weights} - {weight.path for weight in model.weights} == new
    assert all(any(weight is one for one in head.weights) for weight in model.get_layer("encoder_0").weights)


def test_outputs_are_float32_in_mixed_precision_and_heads_save_and_load(tmp_path, under_policy):
    with under_policy("mixed_bfloat16"):
        model = small_bert()
        heads = classifier(model, 3), tagger(model, 3), span_finder(model)
    for head in heads:
        head.save(tmp_path / "head.keras")
        loaded = keras.saving.load_model(tmp_path / "head.keras")
        one, other = (keras.tree.flatten(values(x, TOKENS, SEGMENTS)) for x in (head, loaded))
        for array, same in zip(one, other, strict=True):
            assert array.dtype == "float32"
            np.testing.assert_array_equal(array, same)
        # a head can be put on what was loaded, too
    model.save(tmp_path / "model.keras")
    loaded = tagger(keras.saving.load_model(tmp_path / "model.keras"), 3)
    loaded.get_layer("probabilities").set_weights(heads[1].get_layer("probabilities").get_weights())
    np.testing.assert_allclose(
        values(loaded, TOKENS, SEGMENTS), values(heads[1], TOKENS, SEGMENTS), atol=1e-6
    )


@given(st.integers(1, 7), st.integers(0, 1000), st.one_of(st.none(), st.integers(1, 8)))
def test_the_best_span_is_that_of_a_search_through_all(length, seed, max_length):
    start, end = np.random.default_rng(seed).integers(0, 5, (2, 3, length)) / 4  # with ties
    found = best_span(start, end, max_length)
    for i in range(3):
        spans = [(a, b) for a in range(length) for b in range(a, min(length, a + (max_length or length)))]
        products = [start[i, a] * end[i, b] for a, b in spans]
        assert tuple(found[i]) == spans[int(np.argmax(products))]


def test_the_best_span_compares_numbers_smaller_than_float32_has():
    start = np.array([[1e-30, 1e-20, 0]], "float32")
    end = np.array([[0, 1e-28, 1e-27]], "float32")
    np.testing.assert_array_equal(best_span(start, end), [[1, 2]])
    np.testing.assert_array_equal(best_span(start, end, 1), [[1, 1]])


def test_bad_input():
    model = small_bert()
    for make in (classifier, tagger):
        with pytest.raises(ValueError, match=r"num_\w+ must be at least 2; received num_\w+=1"):
            make(model, 1)
        with pytest.raises(ValueError, match="dropout must lie in"):
            make(model, 2, 1.0)
        with pytest.raises(ValueError, match="tokens and have a vector .* 't5', which reads source_tokens"):
            make(t5(12, 8, 2, 16, 1), 2)
        with pytest.raises(ValueError, match="must read tokens and have a vector"):
            make(classifier(small_bert(), 2), 2)
    with pytest.raises(ValueError, match="must read tokens and have a vector"):
        span_finder(t5(12, 8, 2, 16, 1))
    with pytest.raises(ValueError, match="padding_id must be given with 'gpt', which masks no padding"):
        classifier(gpt(12, 16, 8, 2, 16, 1), 2)
    with pytest.raises(ValueError, match=r"must be \(B, T\); received \(3,\) and \(3,\)"):
        best_span(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match=r"received \(1, 3\) and \(1, 2\)"):
        best_span(np.ones((1, 3)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="max_length must be at least 1; received max_length=0"):
        best_span(np.ones((1, 3)), np.ones((1, 3)), 0)
