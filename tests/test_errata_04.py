"""Section 4 of the article: each test proves one erratum as a numeric fact."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from companion import (
    MultiHeadAttention,
    WordTokenizer,
    attention_distribution,
    causal_mask,
    evaluation,
    scaled_dot_product_attention,
    transformer,
    transformer_classifier,
)
from companion.data import topics

SENTENCE = "我爱北京天安门"
ONE_HOT = np.eye(4, dtype="float32")
ENCODER = np.array([[0.8, 0.2, 0, 0], [0, 0.8, 0.2, 0], [0, 0, 0.8, 0.2], [0, 0, 0, 0.8]])  # as printed
DECODER = np.array([[0.9, 0.1, 0, 0], [0, 0.9, 0.1, 0], [0, 0, 0.9, 0.1], [0, 0, 0, 0.9]])
ABOVE = np.triu_indices(4, 1)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def one_head(causal=False):
    """The weights of one head with identity projections on one-hot inputs."""
    mask = causal_mask(4) if causal else None
    return ops.convert_to_numpy(scaled_dot_product_attention(ONE_HOT, ONE_HOT, ONE_HOT, mask)[1])


def cooccurrence(words, window=4):
    """Counts of pairs at most `window` apart, for the 200 most frequent words of a text."""
    kept, codes = np.unique(words, return_inverse=True)
    frequent = np.argsort(-np.bincount(codes), kind="stable")[:200]
    new = np.full(len(kept), -1)
    new[frequent] = np.arange(len(frequent))
    stream, counts = new[codes], np.zeros((len(frequent), len(frequent)))
    for distance in range(1, window + 1):
        left, right = stream[:-distance], stream[distance:]
        both = (left >= 0) & (right >= 0)
        np.add.at(counts, (left[both], right[both]), 1)
    return counts + counts.T


@pytest.fixture(scope="module")
def text():
    return " ".join(topic.text for topic in topics())


def test_e2_embeddings_are_dense_and_low_dimensional():
    """A tenth of the vocabulary's width is plenty: no coordinate is wasted, and all words stay apart."""
    table = transformer_classifier(2000, 2, max_length=8).get_layer("embedding").token_table
    table = ops.convert_to_numpy(table)
    words, width = table.shape
    assert width < words / 10
    assert np.mean(table != 0) > 0.999  # one-hot: 1 / 2000
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    assert (unit @ unit.T - 2 * np.eye(words)).max() < 0.9


def test_e3_averaging_the_context_makes_all_words_equal(text):
    """On real text sixty averages leave nothing of any difference, at the speed of the second eigenvalue."""
    counts = cooccurrence(re.findall("[a-z]+", text.lower()))
    average = counts / counts.sum(axis=1, keepdims=True)
    moduli = np.sort(np.abs(np.linalg.eigvals(average)))
    assert moduli[-2] < 0.9 < 1 - 1e-9 < moduli[-1] < 1 + 1e-9  # connected and not bipartite
    vectors = normal(len(counts), 20).astype("float64")
    spread = [np.ptp(vectors, axis=0).max()]
    for _ in range(60):
        vectors = average @ vectors
        spread.append(np.ptp(vectors, axis=0).max())
    assert spread[0] > 3 and spread[60] < 1e-9
    np.testing.assert_allclose((spread[10] / spread[5]) ** (1 / 5), moduli[-2], atol=0.05)


def test_e3_what_word2vec_and_glove_compute():
    """Skip-gram has a loss that pushes apart, CBOW averages its inputs, GloVe weighs its squares."""
    u, v, negative = np.array([1.0, 2.0]), np.array([-1.0, 1.0]), np.array([2.0, -1.0])
    logits = np.array([[u @ v], [u @ negative]])
    loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction="sum")
    np.testing.assert_allclose(
        loss([[1.0], [0.0]], logits.tolist()), np.log1p(np.exp(-1)) + np.log(2), atol=1e-5
    )

    same = tf.Variable(np.ones((4, 3), "float32"))  # four words, all alike: the negatives tear them apart
    with tf.GradientTape() as tape:
        true, false = ops.dot(same[0], same[1]), ops.dot(same[0], same[2])
        value = -ops.sum(ops.log_sigmoid(true) + ops.log_sigmoid(-false))
    slope = tf.convert_to_tensor(tape.gradient(value, same)).numpy()
    assert slope[1].max() < 0 < slope[2].min()  # downhill: the context nearer, the negative further

    embedding = layers.Embedding(5, 3)
    hidden = layers.GlobalAveragePooling1D()(embedding(np.array([[1, 3]])))[0]
    inputs = ops.convert_to_numpy(embedding.embeddings)
    np.testing.assert_allclose(hidden, (inputs[1] + inputs[3]) / 2, atol=1e-6)
    assert np.abs(hidden - inputs[2]).max() > 1e-3  # and is not the vector of word 2

    weight = np.minimum(1, (np.array([0, 50, 100, 400]) / 100) ** 0.75)
    assert weight[0] == 0 and np.all(weight[2:] == 1) and 0 < weight[1] < 1


def test_e9_queries_and_keys_come_from_different_places():
    """Cross-attention: T queries, S keys, weights (T, S); another source, another output."""
    layer, target, source = MultiHeadAttention(8, 2), normal(1, 3, 8), normal(1, 5, 8, seed=1)
    output, weights = layer(target, source)
    assert output.shape == (1, 3, 8) and weights.shape == (1, 2, 3, 5)
    assert np.abs(layer(target, normal(1, 5, 8, seed=2))[0] - output).max() > 0.01
    np.testing.assert_allclose(layer(target, source[:, ::-1].copy())[0], output, atol=1e-6)
    naive, naive_weights = scaled_dot_product_attention(target, target, target)
    assert naive_weights.shape == (1, 3, 3)  # the printed formula with one source: T and S cannot differ


def test_e10_the_variance_of_a_score_is_the_width():
    """Components of variance 1: Var(q·k) = d_k, and 1 after the division, in every one of ten seeds."""
    for width in (4, 64, 512):
        raw = np.array(
            [(q * k).sum(axis=1).var() for q, k in (normal(2, 5000, width, seed=s) for s in range(10))]
        )
        np.testing.assert_allclose(raw.mean(), width, rtol=0.02)
        np.testing.assert_allclose(raw / width, 1, atol=0.12)


def test_e10_softmax_saturates_without_the_scale():
    """Of random queries of width 512 most are saturated, scaled none is; J and its limit by the formula."""
    q, k = normal(400, 512), normal(32, 512, seed=1)
    for scale, share in ((1, (0.45, 0.75)), (np.sqrt(512), (0, 0))):
        p = softmax(q @ k.T / scale)
        jacobian = np.eye(32) * p[..., None] - p[..., None] * p[:, None]
        saturated = np.mean(np.linalg.norm(jacobian, axis=(1, 2)) < 0.01)
        assert share[0] <= saturated <= share[1]
    with tf.GradientTape() as tape:
        s = tf.Variable(normal(6, seed=2))
        p = ops.softmax(s)
    np.testing.assert_allclose(tape.jacobian(p, s), np.diag(p) - np.outer(p, p), atol=1e-6)


def test_e10_no_linear_relation_and_a_sum_of_one():
    """A head's queries explain a quarter of its keys, another sentence's nothing; softmax rows sum to 1."""
    x, other = np.random.default_rng(0).normal(size=(2, 3000, 64))
    W_Q, W_K = np.random.default_rng(1).normal(size=(2, 64, 16)) / 8

    def explained(Q, K):
        best = np.linalg.lstsq(Q, K, rcond=None)[0]
        return 1 - ((K - Q @ best) ** 2).sum() / (K**2).sum()

    assert 0.15 < explained(x @ W_Q, x @ W_K) < 0.4 and explained(other @ W_Q, x @ W_K) < 0.05
    p = ops.convert_to_numpy(attention_distribution(normal(5, 8), normal(6, 8, seed=1)))
    np.testing.assert_allclose(p.sum(axis=-1), 1, atol=1e-6)
    in_range = 1 / (1 + np.exp(-normal(5, 6)))  # all between 0 and 1, and no weights
    assert 0 < in_range.min() < in_range.max() < 1 and np.abs(in_range.sum(axis=-1) - 1).min() > 0.5


def test_e13_one_hot_vectors_and_rows_that_do_not_sum_to_one():
    """Every cosine is 0, and the last rows sum to 0.8 and 0.9."""
    assert np.all((ONE_HOT @ ONE_HOT.T)[~np.eye(4, dtype=bool)] == 0)
    np.testing.assert_allclose(ENCODER.sum(-1), [1, 1, 1, 0.8])
    np.testing.assert_allclose(DECODER.sum(-1), [1, 1, 1, 0.9])
    with pytest.raises(ValueError, match="sum to 1"):
        evaluation.cross_entropy(np.arange(4), DECODER, from_logits=False)


def test_e14_underived_and_not_impossible():
    """Weights are positive; yet with Q = K = I there is a W_V that gives the printed rows."""
    A = softmax(np.eye(4) / 2)
    assert A.min() > 0.2 and one_head().min() > 0.2
    W_V = np.linalg.solve(A, ENCODER)
    np.testing.assert_allclose(np.diag(W_V), [4.50, 4.19, 4.19, 4.19], atol=5e-3)
    np.testing.assert_allclose(W_V[0], [4.50, -0.11, -1.54, -1.54], atol=5e-3)
    output, _ = scaled_dot_product_attention(ONE_HOT, ONE_HOT, W_V.astype("float32"))
    np.testing.assert_allclose(output, ENCODER, atol=1e-6)
    assert np.exp(np.float32(-103)) > 0 == np.exp(np.float32(-104))


def test_e15_what_one_head_computes():
    """0.3547 and 0.2151; twice 0.2503 and 0.2499; causal rows; Keras agrees."""
    e = np.exp(0.5)
    expected = np.full((4, 4), 1 / (e + 3)) + np.eye(4) * (e - 1) / (e + 3)
    first = one_head()
    np.testing.assert_allclose(first, expected, atol=1e-6)
    np.testing.assert_allclose(first[0, :2], [0.3547, 0.2151], atol=5e-5)
    second, _ = scaled_dot_product_attention(first, first, first)
    np.testing.assert_allclose(second[0, :2], [0.2503, 0.2499], atol=5e-5)
    rows = [
        [1, 0, 0, 0],
        [0.3775, 0.6225, 0, 0],
        [0.2741, 0.2741, 0.4519, 0],
        [0.2151, 0.2151, 0.2151, 0.3547],
    ]
    np.testing.assert_allclose(one_head(causal=True), rows, atol=5e-5)

    layer = layers.MultiHeadAttention(num_heads=1, key_dim=4)
    layer.build((1, 4, 4), (1, 4, 4))
    layer.set_weights([np.eye(4).reshape(w.shape) if w.size == 16 else 0 * w for w in layer.get_weights()])
    output, weights = layer(ONE_HOT[None], ONE_HOT[None], return_attention_scores=True)
    np.testing.assert_allclose(output[0], expected, atol=1e-6)
    np.testing.assert_allclose(weights[0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(np.sum(layers.LayerNormalization()(ENCODER[None])[0], axis=-1), 0, atol=1e-5)


def test_e15_a_hundred_random_heads():
    """Rows sum to 1 within 1e-6, and no weight comes near 0 or 0.8: Keras's heads and ours."""
    X, rows = ONE_HOT[None], []
    for seed in range(100):
        keras.utils.set_random_seed(seed)
        keras_head = layers.MultiHeadAttention(1, 4)
        rows.append(
            keras_head(X, X, return_attention_scores=True)[1] if seed % 2 else MultiHeadAttention(4, 1)(X)[1]
        )
    weights = np.concatenate(rows)
    assert np.abs(weights.sum(axis=-1) - 1).max() < 1e-6
    assert 0.05 < weights.min() < 0.2 and weights.max() < 0.8


def test_e16_the_printed_rows_are_anti_causal():
    """Causal heads put nothing on later words, the printed rows all they share; 0.9 is no mixture."""
    for seed in range(20):
        keras.utils.set_random_seed(seed)
        _, weights = MultiHeadAttention(4, 1)(ONE_HOT[None], attention_mask=causal_mask(4))
        assert np.all(ops.convert_to_numpy(weights)[0, 0][ABOVE] == 0)
    for printed, share in ((ENCODER, 0.6), (DECODER, 0.3)):
        np.testing.assert_allclose(printed[ABOVE].sum(), share)
        assert not np.tril(printed, -1).any()
    W = np.linalg.solve(ENCODER.T, DECODER.T).T  # DECODER = W @ ENCODER
    np.testing.assert_allclose(W[0, :2], [1.125, -0.156], atol=5e-4)
    assert W.min() < 0 < 1 < W.max() and DECODER.max() > ENCODER.max()


def test_e17_what_a_decoder_is_fed_and_returns():
    """Self- and cross-attention in each block; the target shifted; a score for each word."""
    rows, following = DECODER[:3], np.array([1, 2, 3])
    loss = evaluation.cross_entropy(following, rows, from_logits=False)
    np.testing.assert_allclose(loss, -np.log(0.1))
    assert loss > np.log(4) and evaluation.accuracy(following, rows.argmax(-1)) == 0  # worse than guessing
    assert np.array_equal(ONE_HOT.argmax(-1), DECODER.argmax(-1))  # the output is the input

    model = transformer(9, 12, 8, model_dim=16, num_heads=2, hidden_dim=32, num_layers=2, dropout=0.0)
    source, target = np.array([[4, 5, 6, 7, 3]]), np.array([[2, 4, 5]])
    scores = ops.convert_to_numpy(model({"source_tokens": source, "target_tokens": target}))
    assert scores.shape == (1, 3, 12)  # one distribution over V for each token fed
    np.testing.assert_allclose(softmax(scores).sum(-1), 1, atol=1e-6)
    for name in ("decoder_0", "decoder_1"):
        parts = {weight.path.split("/")[1] for weight in model.get_layer(name).weights}
        assert {"self_attention", "source_attention", "feed_forward"} <= parts
    for changed, first in (
        ({"source_tokens": source[:, ::-1].copy(), "target_tokens": target}, 0),
        ({"source_tokens": source, "target_tokens": np.array([[2, 4, 8]])}, 2),
    ):
        moved = np.abs(ops.convert_to_numpy(model(changed)) - scores).max(axis=(0, 2))
        assert np.all(moved[:first] <= 1e-6) and np.all(moved[first:] > 1e-4)


def test_e18_four_words_need_a_segmenter():
    """Keras and English() see one token, a blank Chinese pipeline seven, a dictionary four."""
    spacy = pytest.importorskip("spacy")
    from spacy.lang.en import English

    legacy = tf.keras.preprocessing.text.Tokenizer()
    legacy.fit_on_texts([SENTENCE])
    assert list(legacy.word_index) == [SENTENCE] == [token.text for token in English()(SENTENCE)]
    assert [token.text for token in spacy.blank("zh")(SENTENCE)] == list(SENTENCE)
    for segmenter, words in (("char", list(SENTENCE)), ("jieba", ["我", "爱", "北京", "天安门"])):
        tokenizer = WordTokenizer.train([SENTENCE], language="zh", segmenter=segmenter)
        assert tokenizer.split(SENTENCE) == words
        assert tokenizer.decode(tokenizer.encode(SENTENCE)) == SENTENCE
