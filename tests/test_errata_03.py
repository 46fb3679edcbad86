"""Section 3 of the article: each test proves one erratum of data/errata/03.json, as a numeric fact."""

import keras
import numpy as np
import pytest
from keras import ops

from companion import (
    DecoderBlock,
    EncoderBlock,
    MultiHeadAttention,
    SubwordTokenizer,
    TokenPositionEmbedding,
    WordTokenizer,
    attention_weights,
    evaluation,
    generate,
    scaled_dot_product_attention,
    transformer,
    transformer_classifier,
)

SIZES = {"max_length": 32, "model_dim": 16, "num_heads": 2, "hidden_dim": 32, "num_layers": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return transformer(20, 20, **SIZES)


def vectors(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def logits(model, source, target):
    inputs = {"source_tokens": np.array([source]), "target_tokens": np.array([target])}
    return ops.convert_to_numpy(model(inputs))[0]


def test_e1_one_vector_for_each_token(model):
    """The encoder's output grows with the text; with one vector there would be nothing to choose from."""
    encoder = keras.Model(model.inputs[0], model.get_layer("encoder_norm").output)
    for length in (1, 3, 7):
        assert encoder(np.full((1, length), 5)).shape == (1, length, SIZES["model_dim"])
    inputs = {"source_tokens": np.array([[5]]), "target_tokens": np.array([[2, 6, 7, 8]])}
    with pytest.warns(UserWarning, match="always return the value 1"):  # Keras knows
        _, to_source = attention_weights(model, inputs)["decoder_1"]
    np.testing.assert_array_equal(to_source, np.ones((1, SIZES["num_heads"], 4, 1), "float32"))


def test_e4_embeddings_are_learned_with_the_model_on_subwords(model):
    """A training step moves the embedding table, and subwords spell a word that a word list does not know."""
    fresh = keras.models.clone_model(model)
    before = fresh.get_layer("source_embedding").token_table.numpy()
    fresh.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    used = np.array([[5, 6, 7]])
    fresh.train_on_batch({"source_tokens": used, "target_tokens": np.array([[2, 6]])}, np.array([[6, 3]]))
    moved = np.abs(fresh.get_layer("source_embedding").token_table.numpy() - before).max(axis=1) > 0
    assert set(np.flatnonzero(moved)) == {5, 6, 7}
    texts = ["I love programming", "we encode and decode"]
    subwords, words = SubwordTokenizer.train(texts, vocabulary_size=300), WordTokenizer.train(texts)
    assert words.encode("encoders") == [words.unknown_id]
    ids = subwords.encode("encoders")
    assert subwords.unknown_id not in ids and subwords.decode(ids) == "encoders"


def test_e5_two_of_the_three_families_have_no_pair_of_stacks(model):
    """BERT's kind has no decoder, GPT's no encoder and no cross-attention; only the third has all."""
    bert = transformer_classifier(20, 2, 32, 16, 2, 32)
    tokens = keras.Input((None,), dtype="int32")
    x = TokenPositionEmbedding(20, 32, 16)(tokens)
    gpt = keras.Model(tokens, keras.layers.Dense(20)(DecoderBlock(16, 2, 32, cross_attention=False)(x)))

    def kinds(model):
        return {type(layer) for layer in model.layers} & {EncoderBlock, DecoderBlock}

    def attends_to_source(model):
        return any("source_attention" in weight.path for weight in model.weights)

    assert kinds(bert) == {EncoderBlock} and not attends_to_source(bert)
    assert kinds(gpt) == {DecoderBlock} and not attends_to_source(gpt)
    assert kinds(model) == {EncoderBlock, DecoderBlock} and attends_to_source(model)
    one, other = np.array([[5, 6, 7, 8]]), np.array([[5, 6, 7, 9]])  # the last token differs
    first = EncoderBlock(16, 2, 32)
    embed = TokenPositionEmbedding(20, 32, 16)
    assert np.abs(first(embed(one))[0, 0] - first(embed(other))[0, 0]).max() > 1e-4  # reads both ways
    np.testing.assert_allclose(gpt(one)[0, :3], gpt(other)[0, :3], atol=1e-6)  # reads forward only


def test_e6_attention_alone_knows_no_order_and_is_not_a_block():
    """Self-attention commutes with any permutation; positions break that. A block also adds its input."""
    keras.utils.set_random_seed(0)
    attention, order = MultiHeadAttention(16, 2, dtype="float64"), np.random.default_rng(1).permutation(9)
    x = vectors(1, 9, 16).astype("float64")
    shuffled_after, _ = attention(x)
    shuffled_before, _ = attention(x[:, order])
    assert np.abs(shuffled_before - ops.take(shuffled_after, order, axis=1)).max() < 1e-14

    tokens = np.arange(1, 10)[None]
    for positions, equal in (("none", True), ("sinusoidal", False)):
        embed, block = TokenPositionEmbedding(20, 32, 16, positions), EncoderBlock(16, 2, 32)
        difference = block(embed(tokens[:, order])) - ops.take(block(embed(tokens)), order, axis=1)
        assert (np.abs(difference).max() < 1e-5) == equal

    block = EncoderBlock(16, 2, 32)
    block.build((1, 9, 16))
    for layer in (block.attention.output_projection, block.feed_forward.output_projection):
        layer.kernel.assign(ops.zeros_like(layer.kernel))
    np.testing.assert_array_equal(block(x.astype("float32")), x.astype("float32"))  # residual: nothing added
    parts = {weight.path.split("/")[1] for weight in block.weights}
    assert parts == {"attention_norm", "attention", "feed_forward_norm", "feed_forward"}


def test_e7_without_a_causal_mask_the_answer_leaks(model):
    """Ours never looks ahead; the printed attention does, and so reads the very token it should predict."""
    one, other = [2, 5, 6, 7, 8], [2, 5, 6, 7, 9]
    difference = np.abs(logits(model, [4, 5], one) - logits(model, [4, 5], other)).max(axis=-1)
    assert difference[:4].max() <= 1e-6 < 1e-3 < difference[4]

    def as_printed(tokens):
        x = TokenPositionEmbedding(20, 32, 16)
        keras.utils.set_random_seed(0)
        x = x(np.array([tokens]))
        return ops.convert_to_numpy(scaled_dot_product_attention(x, x, x)[0])[0]

    assert np.abs(as_printed(one)[:4] - as_printed(other)[:4]).max() > 1e-3


def test_e8_all_previous_tokens_count_and_a_linear_layer_predicts(model):
    """Each earlier token changes the next one's distribution, a linear layer's softmax; writing ends."""
    target = [2, 5, 6, 7, 8]
    at_the_end = logits(model, [4, 5], target)[-1]
    for place in range(1, len(target) - 1):  # not only "the previous word"
        changed = target[:place] + [9] + target[place + 1 :]
        assert np.abs(logits(model, [4, 5], changed)[-1] - at_the_end).max() > 1e-4

    head = model.get_layer("logits")
    states = keras.Model(model.inputs, model.get_layer("decoder_norm").output)
    inputs = {"source_tokens": np.array([[4, 5]]), "target_tokens": np.array([target])}
    by_hand = ops.convert_to_numpy(states(inputs))[0] @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(by_hand, logits(model, [4, 5], target), atol=1e-5)

    stopping = keras.models.clone_model(model)
    stopping.get_layer("logits").bias.assign(ops.one_hot(3, 20) * 100.0)  # the end token, at once
    assert generate(stopping, np.array([[4, 5]]), begin_id=2, end_id=3, max_length=9).tolist() == [[3]]


def test_e11_the_objective_is_held_out_cross_entropy():
    """Cross-entropy is the mean -log p of the next token, and a low one on seen data proves nothing."""
    scores, expected = vectors(2, 3, 7), np.array([[1, 2, 3], [4, 5, 6]])
    probabilities = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    by_hand = -np.log(np.take_along_axis(probabilities, expected[..., None], -1)).mean()
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(expected, scores)
    assert by_hand == pytest.approx(float(keras_loss), abs=1e-5)
    assert evaluation.perplexity(expected, scores) == pytest.approx(np.exp(by_hand), rel=1e-5)
    assert evaluation.perplexity(expected, np.zeros((2, 3, 7))) == pytest.approx(7)  # knows nothing: V

    keras.utils.set_random_seed(0)  # answers drawn by lot: nothing to learn, only to memorize
    random = np.random.default_rng(0)
    texts, answers = random.integers(4, 20, (96, 8)), random.integers(0, 2, 96)
    learner = transformer_classifier(20, 2, 8, 32, 2, 64, 1, dropout=0.0)
    learner.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    learner.fit(texts[:48], answers[:48], batch_size=16, epochs=40, verbose=0)
    seen = learner.evaluate(texts[:48], answers[:48], verbose=0)
    unseen = learner.evaluate(texts[48:], answers[48:], verbose=0)
    assert seen[1] > 0.95 and seen[0] < 0.2
    assert unseen[1] < 0.75 and unseen[0] > np.log(2)


def test_e12_attention_is_quadratic_and_never_says_that_it_does_not_know(model):
    """Twice the length, four times the weights; the context has an end; nonsense gets an answer, too."""
    attention = MultiHeadAttention(16, 2)
    sizes = [ops.size(attention(vectors(1, length, 16))[1]) for length in (8, 16, 32)]
    assert [int(size) for size in sizes] == [2 * 8**2, 2 * 16**2, 2 * 32**2]
    with pytest.raises(ValueError, match="max_length=32"):
        logits(model, [5] * 33, [2])
    written = generate(model, np.random.default_rng(0).integers(4, 20, (5, 9)), max_length=8)
    assert (written[:, 0] > 0).all()  # an answer each, though this model never learned anything

    linear = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(1)])
    x = np.eye(4, dtype="float32")
    effects = linear(x) - linear(
        np.zeros((1, 4), "float32")
    )  # without nonlinearity each input's effect just adds
    np.testing.assert_allclose(
        linear(x.sum(0, keepdims=True)) - linear(x[:1] * 0), ops.sum(effects, 0)[None], atol=1e-5
    )


def test_e39_an_example_in_the_input_can_teach_without_a_change_of_weights():
    """Attention looks up a key in the prompt: new pairs, new answers, and no weight to change."""
    keys, values = np.eye(5, dtype="float32"), vectors(2, 5, 3)
    for prompt in values:  # two different lists of examples for the same five keys
        answer, _ = scaled_dot_product_attention(200.0 * keys, keys, prompt)
        np.testing.assert_allclose(answer, prompt, atol=1e-5)
