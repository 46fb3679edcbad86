"""LoRA beside NumPy and Keras's own; what trains and what stays; merged, saved and loaded."""

import keras
import numpy as np
import pytest
from keras import ops

from companion import bert, generate, gpt, t5, transformer_classifier
from companion.finetuning import freeze, trainable_parameters
from companion.heads import classifier
from companion.lora import LoRADense, add_lora, load_trainable, merge_lora, save_trainable

pytestmark = pytest.mark.backend
TOKENS = np.array([[5, 6, 7, 8, 9, 3], [9, 8, 7, 0, 0, 0]])
MODELS = {
    "bert": lambda: bert(12, 16, 8, 2, 16, 2),
    "gpt": lambda: gpt(12, 16, 8, 2, 16, 2),
    "t5": lambda: t5(12, 8, 2, 16, 2, gated=True),
}
TARGETS = ("query", "key", "value", "output", "hidden")
each_model = pytest.mark.parametrize("name", MODELS)


def values(model):
    inputs = TOKENS if len(model.inputs) == 1 else [TOKENS, TOKENS % 2]
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(model(inputs))]


def close(one, other, tolerance=1e-5):
    for a, b in zip(values(one), values(other), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


def trained(model, seed=0):
    """As after training: B is not zero any more."""
    generator = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(generator.normal(0, 0.1, weight.shape))
    return model


def snapshot(model):
    return {weight.path: ops.convert_to_numpy(weight).copy() for weight in model.weights}


@each_model
def test_at_first_the_copy_computes_the_same_and_the_model_stays_as_it_is(name, randomized):
    model = randomized(MODELS[name]())
    before = snapshot(model), values(model), len(model.trainable_weights)
    copy = add_lora(model, 2, targets=TARGETS)
    close(copy, model, 1e-6)
    trained(copy)
    assert np.abs(values(copy)[0] - before[1][0]).max() > 1e-2
    assert len(model.trainable_weights) == before[2]
    for path, array in snapshot(model).items():
        np.testing.assert_array_equal(array, before[0][path])


@each_model
def test_merged_is_unmerged_and_has_the_weights_of_the_model(name, randomized, tmp_path):
    model = randomized(MODELS[name]())
    copy = trained(add_lora(model, 3, alpha=6, targets=TARGETS))
    merged = merge_lora(copy)
    close(merged, copy)
    assert np.abs(values(merged)[0] - values(model)[0]).max() > 1e-2
    for name in ("weights", "trainable_weights"):
        ours, theirs = ([weight.path for weight in getattr(x, name)] for x in (merged, model))
        assert ours == theirs
    assert merged.name == model.name
    assert [type(layer) for layer in merged.layers] == [type(layer) for layer in model.layers]
    merged.save(tmp_path / "merged.keras")
    loaded = keras.saving.load_model(tmp_path / "merged.keras")
    close(loaded, merged, 0)
    assert [weight.path for weight in loaded.weights] == [weight.path for weight in model.weights]


@each_model
def test_a_copy_saves_and_loads_and_goes_on_training_the_same_weights(name, randomized, tmp_path):
    copy = trained(add_lora(randomized(MODELS[name]()), 3, targets=TARGETS))
    for _ in range(2):
        copy.save(tmp_path / "copy.keras")
        loaded = keras.saving.load_model(tmp_path / "copy.keras")
        close(loaded, copy, 0)
        for kind in ("weights", "trainable_weights"):
            ours, theirs = ([weight.path for weight in getattr(x, kind)] for x in (loaded, copy))
            assert ours == theirs
        copy = loaded
    close(merge_lora(loaded), loaded)


def test_a_saved_copy_loads_in_another_process(fresh_python, tmp_path):
    copy = trained(add_lora(gpt(12, 16, 8, 2, 16, 1), 2))
    copy.save(tmp_path / "copy.keras")
    code = f"""
import keras, companion.lora
import numpy as np
model = keras.saving.load_model({str(tmp_path / "copy.keras")!r})
print(repr(float(np.asarray(keras.ops.convert_to_numpy(model(np.array([[5, 6, 7]])))).sum())))
"""
    expected = ops.convert_to_numpy(copy(TOKENS[:1, :3])).sum()
    assert abs(float(fresh_python(code).split()[-1]) - expected) < 1e-4


@pytest.mark.parametrize(
    ("targets", "numbers"),
    [
        (("query", "value"), 2 * (8 + 8)),
        (("key",), 8 + 8),
        (("output",), (8 + 8) + (16 + 8)),
        (("query", "hidden"), (8 + 8) + (8 + 16)),
    ],
)
def test_only_the_thin_matrices_train(targets, numbers):
    copy = add_lora(bert(12, 16, 8, 2, 16, 2), 3, targets=targets)
    assert trainable_parameters(copy) == 2 * 3 * numbers  # blocks, rank
    assert trainable_parameters(classifier(copy, 4)) == 2 * 3 * numbers + 4 * (8 + 1)
    paths = [weight.path.split("/") for weight in copy.trainable_weights]
    assert {path[-1] for path in paths} == {"a", "b"}
    assert {path[-2] for path in paths} == {f"lora_{target}" for target in targets}


def test_gate_and_attention_to_the_source_are_reached():
    copy = add_lora(t5(12, 8, 2, 16, 1, gated=True), 1, targets=("gate", "value"))
    paths = [weight.path for weight in copy.trainable_weights if weight.path.endswith("/a")]
    assert sorted(paths) == [
        "decoder_0/feed_forward/lora_gate/a",
        "decoder_0/self_attention/lora_value/a",
        "decoder_0/source_attention/lora_value/a",
        "encoder_0/attention/lora_value/a",
        "encoder_0/feed_forward/lora_gate/a",
    ]


def test_training_changes_them_and_the_head_and_nothing_else():
    frozen = freeze(bert(12, 16, 8, 2, 16, 2, masked_lm=False))
    model = classifier(add_lora(frozen, 2, targets=TARGETS), 2)
    before, pretrained = snapshot(model), snapshot(frozen)
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1), "sparse_categorical_crossentropy")
    model.fit([TOKENS, TOKENS % 2], np.array([0, 1]), epochs=3, verbose=0)
    trains = {weight.path for weight in model.trainable_weights}
    assert len(trains) == 2 * 6 * 2 + 2  # blocks, dense layers, matrices; the head's
    for path, array in snapshot(model).items():
        assert np.array_equal(array, before[path]) == (path not in trains), path
    merged = merge_lora(model)
    close(merged, model)
    merged.compile("sgd", "sparse_categorical_crossentropy")
    merged.fit([TOKENS, TOKENS % 2], np.array([0, 1]), verbose=0)
    for one, arrays in ((frozen, pretrained), (model, snapshot(model))):
        for path, array in snapshot(one).items():
            np.testing.assert_array_equal(array, arrays[path])


def test_a_dense_layer_with_lora_agrees_with_numpy_and_with_keras(rng):
    x = rng.standard_normal((4, 5)).astype("float32")
    y = rng.standard_normal((4, 6)).astype("float32")
    dense = keras.layers.Dense(6, "tanh")
    theirs = keras.layers.Dense(6, "tanh")
    theirs.build((None, 5))
    theirs.enable_lora(2, lora_alpha=3)
    ours = LoRADense(dense, 2, 3)
    ours.build((None, 5))
    a, b = ops.convert_to_numpy(ours.a), rng.standard_normal((2, 6)).astype("float32")
    ours.b.assign(b)
    kernel, bias = (rng.standard_normal(shape).astype("float32") for shape in ((5, 6), (6,)))
    dense.set_weights([kernel, bias])
    theirs._kernel.assign(kernel)
    for weight, array in ((theirs.bias, bias), (theirs.lora_kernel_a, a), (theirs.lora_kernel_b, b)):
        weight.assign(array)
    expected = np.tanh(x @ kernel + bias + 3 / 2 * x @ a @ b)
    np.testing.assert_allclose(ops.convert_to_numpy(ours(x)), expected, atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(theirs(x)), expected, atol=1e-6)
    dense.trainable = theirs.bias.trainable = False
    for layer in (ours, theirs):
        model = keras.Sequential([keras.Input((5,)), layer])
        model.compile(keras.optimizers.SGD(0.5), "mse")
        model.fit(x, y, epochs=2, verbose=0)
    for weight, other in ((ours.a, theirs.lora_kernel_a), (ours.b, theirs.lora_kernel_b)):
        one, other = ops.convert_to_numpy(weight), ops.convert_to_numpy(other)
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(ops.convert_to_numpy(ours.a) - a).max() > 1e-3
    np.testing.assert_allclose(
        ops.convert_to_numpy(ours.merged_kernel()), ops.convert_to_numpy(theirs.kernel), atol=1e-6
    )


def test_a_starts_as_a_gaussian_whose_variance_falls_with_the_width():
    layer = LoRADense(keras.layers.Dense(3), 200, 1)
    layer.build((None, 400))
    a = ops.convert_to_numpy(layer.a)
    assert abs(a.std() * 400**0.5 - 1) < 0.02 and abs(a.mean()) < 1e-3
    assert not ops.convert_to_numpy(layer.b).any()


def test_alpha_scales_and_is_the_rank_if_not_given():
    model = gpt(12, 16, 8, 2, 16, 1)
    one, other = add_lora(model, 4), add_lora(model, 4, alpha=4)
    other.set_weights(trained(one).get_weights())
    close(one, other, 0)
    none = add_lora(model, 4, alpha=1e-9)
    none.set_weights(one.get_weights())
    close(none, model, 1e-6)


def test_a_copy_generates_what_the_merged_model_does(randomized):
    copy = trained(add_lora(randomized(gpt(12, 16, 8, 2, 16, 1)), 2, targets=TARGETS))
    prompts = np.array([[5, 6, 7], [9, 8, 4]])
    ours, merged = (
        generate(model, prompts, max_length=5, strategy="sample", seed=0)
        for model in (copy, merge_lora(copy))
    )
    assert len(np.unique(ours)) > 1
    np.testing.assert_array_equal(ours, merged)


def test_mixed_precision(under_policy):
    with under_policy("mixed_bfloat16"):
        copy = trained(add_lora(gpt(12, 16, 8, 2, 16, 1), 2, targets=TARGETS))
        merged = merge_lora(copy)
    block = copy.get_layer("decoder_0")
    assert {weight.dtype for weight in block.weights} == {"float32"}
    assert {adapter.compute_dtype for adapter in block.adapters} == {"bfloat16"}
    close(copy, merged, 0.05)


def test_the_small_weights_save_and_load(randomized, tmp_path):
    model = randomized(bert(12, 16, 8, 2, 16, 2))
    one, other = (classifier(add_lora(model, 2), 3) for _ in range(2))
    path = tmp_path / "new" / "adapter.npz"
    save_trainable(path, trained(one, seed=1))
    save_trainable(path, trained(one, seed=2))
    assert [file.name for file in path.parent.iterdir()] == ["adapter.npz"]
    with np.load(path) as file:
        assert sum(file[name].size for name in file.files) == trainable_parameters(one)
    load_trainable(path, other)
    close(one, other, 0)


def test_a_file_that_does_not_fit_sets_nothing(tmp_path):
    model = gpt(12, 16, 8, 2, 16, 1)
    path = tmp_path / "adapter.npz"
    save_trainable(path, trained(add_lora(model, 2)))
    wider = trained(add_lora(model, 3))
    for other, message in (
        (wider, r"must hold decoder_0/.*/[ab] of shape \(.*3.*\); it holds \(.*2.*\)"),
        (add_lora(model, 2, targets=("query",)), "lora_value/. of shape None; it holds"),
        (classifier(add_lora(model, 2), 2, padding_id=0), r"probabilities/.* of shape \(.*\); it holds None"),
    ):
        before = snapshot(other)
        with pytest.raises(ValueError, match=message):
            load_trainable(path, other)
        for name, array in snapshot(other).items():
            np.testing.assert_array_equal(array, before[name])
    with np.load(path) as file:
        array = file[file.files[0]]
    whole = path.read_bytes()
    middle = whole.index(array.tobytes()) + 5
    for damaged in (whole[:100], b"", b"text", whole[:middle] + b"\xff" + whole[middle + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="must hold what save_trainable wrote"):
            load_trainable(path, add_lora(model, 2))
    with pytest.raises(FileNotFoundError):
        load_trainable(tmp_path / "none.npz", wider)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    model = add_lora(gpt(12, 16, 8, 2, 16, 1), 2)
    path = tmp_path / "adapter.npz"
    save_trainable(path, model)
    before = path.read_bytes()

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="disk full"):
        save_trainable(path, model)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_numpy_numbers_are_taken(tmp_path):
    copy = add_lora(transformer_classifier(12, 2, 8), np.int64(2), np.float32(4))
    copy.save(tmp_path / "copy.keras")
    close(keras.saving.load_model(tmp_path / "copy.keras"), copy, 0)


def test_bad_input():
    model = gpt(12, 16, 8, 2, 16, 1)
    with pytest.raises(ValueError, match="rank must be at least 1; received rank=0"):
        add_lora(model, 0)
    with pytest.raises(ValueError, match="alpha must be above 0; received alpha=-1"):
        add_lora(model, 2, alpha=-1)
    for targets in (("query", "up"), (), "query", ("gate",)):
        with pytest.raises(
            ValueError, match="targets must be some of hidden, key, output, query, value; rec"
        ):
            add_lora(model, 2, targets=targets)
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for wrong in (other, add_lora(model, 2)):
        with pytest.raises(ValueError, match="model must hold EncoderBlock or DecoderBlock layers without"):
            add_lora(wrong, 2)
    with pytest.raises(ValueError, match="model must come from add_lora; received 'gpt' without LoRA"):
        merge_lora(model)
