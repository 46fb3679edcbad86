"""The captioner: cells of a picture, a decoder that looks at them, batches with unknown words."""

import keras
import numpy as np
import pytest
from keras import ops

from companion import generate
from companion.captioning import ImageCells, caption_batches, captioner

pytestmark = pytest.mark.backend
SIZE = 16  # pixels a side: four cells


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (3, SIZE * SIZE * 3)).astype("int32")


@pytest.fixture
def model(randomized):
    return randomized(captioner(12, 6, SIZE, SIZE, model_dim=8, num_heads=2, hidden_dim=16))


def array(tensor):
    return ops.convert_to_numpy(tensor)


def convolved(image, kernel, bias):
    """3 or 5 wide, two steps at a time, zeros outside, in NumPy: (H, W, C) to (H / 2, W / 2, F)."""
    size, height = kernel.shape[0], image.shape[0]
    before = (size - 2) // 2  # TensorFlow's "same" with stride 2 pads less on the left
    padded = np.pad(image, ((before, size), (before, size), (0, 0)))
    result = np.empty((height // 2, image.shape[1] // 2, kernel.shape[-1]))
    for i, j in np.ndindex(result.shape[:2]):
        window = padded[2 * i : 2 * i + size, 2 * j : 2 * j + size]
        result[i, j] = np.tensordot(window, kernel, 3) + bias
    return np.maximum(result, 0)


def normalized(x, norm):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * array(norm.gamma) + array(norm.beta)


@pytest.mark.parametrize("separate", [True, False])
def test_cells_agree_with_numpy(pixels, randomized, separate):
    layer = ImageCells(SIZE, SIZE, 8, separate)
    layer(pixels)
    randomized(layer)
    for row, cells in zip(pixels, array(layer(pixels)), strict=True):
        colors = row.reshape(SIZE, SIZE, 3) / 127.5 - 1
        contrast = np.linalg.norm(colors - colors.mean(axis=(0, 1)), axis=-1, keepdims=True) / 3**0.5
        x = contrast if separate else np.concatenate([colors, contrast], axis=-1)
        for convolution in layer.convolutions:
            x = convolved(x, array(convolution.kernel), array(convolution.bias))
        expected = normalized(x.reshape(4, 8), layer.norms[0])
        if separate:
            corners = [(slice(i, i + 8), slice(j, j + 8)) for i in (0, 8) for j in (0, 8)]
            weights = [contrast[corner] ** 2 + 1e-4 for corner in corners]
            both = zip(corners, weights, strict=True)
            mean = [(colors[corner] * w).sum((0, 1)) / w.sum() for corner, w in both]
            x = np.array(mean) @ array(layer.color.kernel) + array(layer.color.bias)
            expected = np.concatenate([expected, normalized(x, layer.norms[1])])
        np.testing.assert_allclose(cells, expected + array(layer.place_table), atol=1e-4)


def test_one_stream_sees_no_color_and_one_no_outline(randomized):
    """A gray ground, in it a thing: exchange the channels, turn the thing over."""
    picture = np.full((SIZE, SIZE, 3), 128)
    picture[1:4, 2:7] = 40, 90, 220
    picture[3, 2:5] = 128
    other, turned = picture[:, :, [2, 0, 1]], picture.copy()
    turned[:8, :8] = picture[7::-1, 7::-1]
    layer = ImageCells(SIZE, SIZE, 8)
    rows = np.stack([picture.ravel(), other.ravel(), turned.ravel()]).astype("int32")
    layer(rows)
    outlines, colors = np.split(array(randomized(layer)(rows)), 2, axis=1)
    np.testing.assert_allclose(outlines[1], outlines[0], atol=1e-4)
    np.testing.assert_allclose(colors[2], colors[0], atol=1e-4)
    assert np.abs(outlines[2, 0] - outlines[0, 0]).max() > 1e-2
    assert np.abs(colors[1, 0] - colors[0, 0]).max() > 1e-2


def test_words_depend_on_the_picture_and_on_no_later_word(model, pixels):
    tokens = np.array([[2, 4, 5, 6]] * 3, "int32")
    logits = array(model([pixels, tokens]))
    assert logits.shape == (3, 4, 12)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    changed = tokens.copy()
    changed[:, 2:] = 9
    after = array(model([pixels, changed]))
    np.testing.assert_allclose(after[:, :2], logits[:, :2], atol=1e-5)
    assert np.abs(after[:, 2:] - logits[:, 2:]).max() > 1e-3


def test_generate_writes_captions_with_and_without_a_cache(model, pixels):
    pixels[0] = 0  # a black picture is no padding
    written = generate(model, list(pixels), max_length=6, end_id=())
    assert written.shape == (3, 6)
    np.testing.assert_array_equal(
        written, generate(model, list(pixels), max_length=6, end_id=(), use_cache=False)
    )
    tokens = np.full((3, 1), 2, "int32")
    for _ in range(6):  # by hand
        logits = array(model([pixels, tokens]))[:, -1]
        logits[:, [0, 2]] = -np.inf
        tokens = np.concatenate([tokens, logits.argmax(axis=-1)[:, None].astype("int32")], axis=1)
    np.testing.assert_array_equal(written, tokens[:, 1:])


def test_generate_refuses_what_is_no_picture(model):
    with pytest.raises(ValueError, match=r"prompts must hold ids in \[0, 256\); received 300 to 300"):
        generate(model, [np.full(SIZE * SIZE * 3, 300)])
    with pytest.raises(ValueError, match="prompts must have at most 768 tokens; received one of 800"):
        generate(model, [np.zeros(800, int)])


def test_saves_and_loads(model, pixels, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    tokens = np.array([[2, 4]] * 3, "int32")
    np.testing.assert_allclose(array(loaded([pixels, tokens])), array(model([pixels, tokens])), atol=1e-6)


def test_learns_to_tell_black_from_white(rng):
    pixels = np.repeat([[0], [255]], SIZE * SIZE * 3, axis=1).astype("int32")
    captions = np.array([[2, 4, 5, 3], [2, 4, 6, 3]])
    model = captioner(8, 4, SIZE, SIZE, model_dim=16, num_heads=2, hidden_dim=16, num_layers=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    batches = list(caption_batches(pixels, captions, 2, 40))
    losses = [float(model.train_on_batch(*batch)) for batch in batches]
    assert losses[-1] < 0.2 * losses[0]
    np.testing.assert_array_equal(generate(model, list(pixels), max_length=3), captions[:, 1:])


def test_batches_show_every_picture_once_in_a_pass():
    pixels = np.arange(6)[:, None] * np.ones((1, 6), "uint8")
    captions = np.array([[2, 4 + i, 3, 0] for i in range(6)])
    batches = list(caption_batches(pixels, captions, 3, 4, seed=1))
    assert len(batches) == 4
    for start in (0, 2):
        shown = np.concatenate([inputs["pixels"][:, 0] for inputs, _, _ in batches[start : start + 2]])
        assert sorted(shown) == list(range(6))
    for inputs, labels, weights in batches:
        np.testing.assert_array_equal(inputs["tokens"], captions[inputs["pixels"][:, 0], :-1])
        np.testing.assert_array_equal(labels, captions[inputs["pixels"][:, 0], 1:])
        np.testing.assert_array_equal(weights, [[1, 1, 0]] * 3)


def test_words_become_unknown_where_they_are_read_only():
    captions = np.concatenate([np.full((50, 1), 2), np.full((50, 9), 7), np.zeros((50, 3), int)], axis=1)
    inputs, labels, _ = next(caption_batches(np.zeros((50, 3), "uint8"), captions, 50, 1, word_dropout=0.4))
    tokens = inputs["tokens"]
    assert 0.33 < (tokens[:, :10] == 1).mean() < 0.47 and (tokens[:, 10:] == 0).all()
    assert set(np.unique(tokens)) == {0, 1, 2, 7} and not (labels == 1).any()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: ImageCells(20, 16, 8), "height and width must be multiples of 8; received 20 and 16"),
        (lambda: ImageCells(16, 16, 6), "model_dim must be a multiple of 4; received model_dim=6"),
        (lambda: ImageCells(16, 16, 8)(np.zeros((1, 9))), r"pixels must have 16 \* 16 \* 3 = 768 .*\(1, 9\)"),
        (lambda: captioner(9, 9, num_layers=0), "num_layers must be at least 1; received num_layers=0"),
        (
            lambda: caption_batches(np.zeros((3, 4)), np.zeros((2, 4)), 2, 1),
            "equally many, at least batch_size=2; received 3 and 2",
        ),
        (
            lambda: caption_batches(np.zeros((3, 4)), np.zeros((3, 4)), 4, 1),
            "equally many, at least batch_size=4; received 3 and 3",
        ),
        (
            lambda: caption_batches(np.zeros((3, 4)), np.zeros((3, 4)), 2, 1, word_dropout=1.0),
            r"word_dropout must lie in \[0, 1\); received word_dropout=1.0",
        ),
    ],
)
def test_bad_input(function, message):
    with pytest.raises(ValueError, match=message):
        function()
