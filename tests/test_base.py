"""What the layers share: they may be made with NumPy's numbers, and refuse sizes that make no sense."""

import keras
import numpy as np
import pytest

from companion import (
    DecoderBlock,
    Dropout,
    EncoderBlock,
    FeedForward,
    MultiHeadAttention,
    TokenPositionEmbedding,
    lstm_classifier,
    lstm_seq2seq,
    transformer,
    transformer_classifier,
)
from companion.base import check_at_least, check_shares, plain

pytestmark = pytest.mark.backend
TWO, FOUR, EIGHT, SIXTEEN = map(np.int64, (2, 4, 8, 16))
TENTH = np.float32(0.1)


def sequence(layer):
    inputs = keras.Input((None, 8))
    return keras.Model(inputs, layer(inputs))


MADE_OF_NUMPY = {
    "embedding": lambda: keras.Sequential([
        keras.Input((None,), dtype="int32"),
        TokenPositionEmbedding(np.int64(10), EIGHT, model_dim=EIGHT, dropout=TENTH),
    ]),
    "attention": lambda: sequence(MultiHeadAttention(EIGHT, num_heads=TWO, dropout=TENTH)),
    "feed_forward": lambda: sequence(FeedForward(EIGHT, hidden_dim=SIXTEEN, dropout=TENTH)),
    "encoder": lambda: sequence(EncoderBlock(EIGHT, TWO, hidden_dim=SIXTEEN, dropout=TENTH)),
    "decoder": lambda: sequence(DecoderBlock(EIGHT, TWO, SIXTEEN, cross_attention=np.bool_(False))),
    "transformer": lambda: transformer(EIGHT, EIGHT, EIGHT, EIGHT, TWO, SIXTEEN, num_layers=TWO),
    "transformer_classifier": lambda: transformer_classifier(EIGHT, TWO, EIGHT, EIGHT, TWO, hidden_dim=FOUR),
    "lstm_classifier": lambda: lstm_classifier(EIGHT, TWO, FOUR, FOUR, num_layers=TWO, dropout=TENTH),
    "lstm_seq2seq": lambda: lstm_seq2seq(EIGHT, EIGHT, FOUR, hidden_dim=FOUR, dropout=TENTH),
}  # fmt: skip


@pytest.mark.parametrize("make", MADE_OF_NUMPY.values(), ids=MADE_OF_NUMPY)
def test_what_is_made_with_numpys_numbers_is_saved_and_loaded(make, tmp_path):
    model = make()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.count_params() == model.count_params() > 0
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_plain_numbers():
    values = [plain(x) for x in (np.int64(3), np.float32(0.5), np.bool_(True), 3, "3", None)]
    assert values == [3, 0.5, True, 3, "3", None]
    assert [type(value) for value in values[:3]] == [int, float, bool]


@pytest.mark.parametrize("dropout", [1.0, -0.1, float("nan")])
@pytest.mark.parametrize(
    "make",
    [
        lambda dropout: TokenPositionEmbedding(10, 8, 8, dropout=dropout),
        lambda dropout: MultiHeadAttention(8, 2, dropout),
        lambda dropout: FeedForward(8, 16, dropout=dropout),
        lambda dropout: EncoderBlock(8, 2, 16, dropout),
        lambda dropout: DecoderBlock(8, 2, 16, dropout),
        lambda dropout: transformer(8, 8, 8, 8, 2, 16, dropout=dropout),
        lambda dropout: transformer_classifier(8, 2, 8, 8, 2, num_layers=0, dropout=dropout),
        lambda dropout: lstm_classifier(8, 2, dropout=dropout),
        lambda dropout: lstm_seq2seq(8, 8, dropout=dropout),
    ],
)
def test_dropping_everything_is_refused(make, dropout):
    with pytest.raises(ValueError, match=rf"dropout must lie in \[0, 1\); received dropout={dropout}\."):
        make(dropout)


def test_the_first_number_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"b must be at least 2; received b=1\."):
        check_at_least(2, a=2, b=1, c=0)
    with pytest.raises(ValueError, match=r"a must be at least 0; received a=nan\."):
        check_at_least(0, a=float("nan"))
    check_shares(a=0, b=0.999)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate):
    x = np.ones((500, 401), "float32")  # odd: the last random word is half used
    y = keras.ops.convert_to_numpy(Dropout(rate)(x, training=True))
    dropped = np.mean(y == 0)
    assert abs(dropped - rate) < 5 * (rate * (1 - rate) / x.size) ** 0.5
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-4)
    for axis in (0, 1):  # neither rows nor columns are dropped together
        shares = np.mean(y == 0, axis=axis)
        assert np.std(shares) == pytest.approx((rate * (1 - rate) / x.shape[axis]) ** 0.5, rel=0.2)


def test_dropout_is_drawn_anew_from_the_seed():
    x = np.ones((40, 41), "float32")

    def two():
        keras.utils.set_random_seed(3)
        layer = Dropout(0.3)
        return [keras.ops.convert_to_numpy(layer(x, training=True)) for _ in range(2)]

    first, second = two()
    assert np.any(first != second)
    np.testing.assert_array_equal([first, second], two())


def test_dropout_passes_everything_on_outside_training_and_at_rate_zero():
    x = np.arange(6, dtype="float32").reshape(2, 3)
    np.testing.assert_array_equal(Dropout(0.9)(x), x)
    np.testing.assert_array_equal(Dropout(0.0)(x, training=True), x)
    assert not Dropout(0.0).variables


def test_dropout_of_batches_of_any_size_and_length():
    inputs = keras.Input((None, 3))
    model = keras.Sequential([inputs, Dropout(0.5), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((5, 7, 3)), np.ones((5, 7, 1)), batch_size=2, verbose=0)  # batches of 2, 2 and 1
    assert np.all(np.isfinite(model.predict(np.ones((2, 4, 3)), verbose=0)))


def test_dropout_next_to_one_still_leaves_something():
    y = keras.ops.convert_to_numpy(Dropout(1 - 1e-9)(np.ones(2**20, "float32"), training=True))
    assert set(np.unique(y)) <= {0.0, 2.0**16} and np.mean(y) == pytest.approx(1, abs=1)


def test_dropout_in_half_precision_keeps_its_dtype():
    y = Dropout(0.5, dtype="mixed_bfloat16")(np.ones((8, 8), "float32"), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_dropout_refuses_rates_that_are_none(rate):
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\); received rate="):
        Dropout(rate)


def test_a_policy_given_as_an_object_is_written_down():
    block = EncoderBlock(8, 2, 16, dtype=keras.DTypePolicy("mixed_bfloat16"))
    again = EncoderBlock.from_config(block.get_config())
    assert again.compute_dtype == again.attention.compute_dtype == "bfloat16" and again.dtype == "float32"
