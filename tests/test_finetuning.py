"""Freezing, learning rates by layer, early stopping: closed forms, parity with Keras, tasks to learn."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from companion import bert, gpt, t5
from companion.finetuning import GroupedAdamW, fine_tune, freeze, layer_decay, trainable_parameters
from companion.heads import best_span, classifier, span_finder, tagger
from companion.lora import add_lora, merge_lora
from companion.pretraining import Pretrainer

pytestmark = pytest.mark.backend
VOCABULARY = 12


class Batches(keras.utils.PyDataset):
    """Batches for every backend; arrays may come in dictionaries and tuples."""

    def __init__(self, *arrays, size=32):
        super().__init__()
        self.arrays, self.size = arrays, size

    def __len__(self):
        return -(-len(keras.tree.flatten(self.arrays)[0]) // self.size)

    def __getitem__(self, i):
        return keras.tree.map_structure(lambda x: x[i * self.size : (i + 1) * self.size], self.arrays)


def small_bert(**settings):
    return bert(
        VOCABULARY, 16, **{"model_dim": 16, "num_heads": 2, "hidden_dim": 32, "num_layers": 1, **settings}
    )


def texts(count, seed=0, length=8):
    """Random tokens from 3 on, padded to the length: {"tokens", "segments"}, and which are real."""
    generator = np.random.default_rng(seed)
    real = np.arange(length) < generator.integers(length // 2, length + 1, (count, 1))
    tokens = np.where(real, generator.integers(3, VOCABULARY, (count, length)), 0)
    return {"tokens": tokens, "segments": np.zeros_like(tokens)}, real


def tagged(count, seed=0):
    """The tag is the token modulo 3; that of padding means nothing and weighs nothing."""
    inputs, real = texts(count, seed)
    noise = np.arange(real.shape[1]) % 3
    return inputs, np.where(real, inputs["tokens"] % 3, noise), real.astype("float32")


def snapshot(model):
    return {weight.path: ops.convert_to_numpy(weight).copy() for weight in model.weights}


def predicted(model, inputs):
    return keras.tree.map_structure(ops.convert_to_numpy, model.predict(inputs, verbose=0))


def built(rates=None, **settings):
    """Two layers and an optimizer for them."""
    x = keras.Input((4,))
    first, second = keras.layers.Dense(3, name="first"), keras.layers.Dense(2, name="second")
    model = keras.Model(x, second(first(x)))
    optimizer = GroupedAdamW(0.1, rates, **settings)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def step(model, optimizer, gradient):
    """The changes that one step makes; every gradient is the same number."""
    before = snapshot(model)
    gradients = [ops.full(weight.shape, gradient) for weight in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)
    return {path: array - before[path] for path, array in snapshot(model).items()}


def test_the_first_step_is_as_long_as_the_rate_says():
    model, optimizer = built({"fir*": 0.1}, weight_decay=0.0)
    changes = step(model, optimizer, 0.25)  # Adam's first step is the learning rate, whatever the gradient
    for name, length in (("first", 0.01), ("second", 0.1)):
        for kind in ("kernel", "bias"):
            np.testing.assert_allclose(changes[f"{name}/{kind}"], -length, rtol=1e-4)


def test_rate_zero_changes_no_bit_and_the_first_match_counts():
    model, optimizer = built({"first": 0.0, "*": 0.5}, weight_decay=0.1)
    before = snapshot(model)
    for _ in range(3):
        step(model, optimizer, 0.25)
    for path, array in snapshot(model).items():
        assert np.array_equal(array, before[path]) == path.startswith("first"), path
    model, optimizer = built({"*": 0.5, "first": 0.0}, weight_decay=0.0)  # the later one never counts
    for change in step(model, optimizer, 0.25).values():
        np.testing.assert_allclose(change, -0.05, rtol=1e-4)


def test_rates_reach_the_layers_in_a_layer():
    model = classifier(add_lora(small_bert(), 2), 2)
    optimizer = GroupedAdamW(0.01, {"lora_query": 0.0, "encoder_*": 0.5}, weight_decay=0.0)
    optimizer.build(model.trainable_variables)
    factors = {weight.path: x for weight, x in zip(model.trainable_variables, optimizer.factors, strict=True)}
    expected = {
        f"encoder_0/attention/lora_{name}/{x}": y for name, y in (("query", 0), ("value", 0.5)) for x in "ab"
    }
    assert factors == expected | {"probabilities/kernel": 1, "probabilities/bias": 1}


def test_matrices_decay_by_their_rate_and_biases_do_not():
    model, optimizer = built({"second": 0.5}, weight_decay=0.2)
    for weight in model.weights:
        weight.assign(ops.ones(weight.shape))
    changes = step(model, optimizer, 0.0)
    for path, change in (("first/kernel", -0.1 * 0.2), ("second/kernel", -0.05 * 0.2)):
        np.testing.assert_allclose(changes[path], change, rtol=1e-5)
    assert not changes["first/bias"].any() and not changes["second/bias"].any()


def test_what_is_excluded_from_decay_does_not_decay():
    model, _ = built()
    optimizer = GroupedAdamW(0.1, weight_decay=0.2)
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("first").kernel])
    optimizer.build(model.trainable_variables)
    changes = step(model, optimizer, 0.0)
    assert not changes["first/kernel"].any() and changes["second/kernel"].any()


def test_the_loss_of_a_float16_model_is_scaled_whatever_the_policy_when_it_is_trained(under_policy):
    with under_policy("mixed_float16"):
        base = small_bert()
    model = classifier(base, 2)
    batches = Batches(texts(8)[0], np.arange(8) % 2)
    fine_tune(model, batches, batches, 0.01, epochs=1, verbose=0)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2}, {"use_ema": True}])
def test_without_rates_it_is_keras_adamw(settings, rng):
    x, y = rng.standard_normal((24, 4)).astype("float32"), rng.standard_normal((24, 2)).astype("float32")
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 6)
    weights = []
    for optimizer in (keras.optimizers.AdamW, GroupedAdamW):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(3, "tanh", use_bias=False), keras.layers.Dense(2, use_bias=False)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        optimizer = optimizer(schedule, weight_decay=0.1, global_clipnorm=0.5, **settings)
        model.compile(optimizer, "mse")
        model.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_it_is_saved_with_the_model_and_goes_on_where_it_was(tmp_path):
    model = tagger(small_bert(masked_lm=False, dropout=0.0), 3, dropout=0.0)
    inputs, labels, weights = tagged(64)

    def train(model):
        model.fit(
            [inputs["tokens"], inputs["segments"]], labels, sample_weight=weights, shuffle=False, verbose=0
        )

    model.compile(
        GroupedAdamW(0.01, layer_decay(model, 0.5), global_clipnorm=1.0), "sparse_categorical_crossentropy"
    )
    train(model)
    model.save(tmp_path / "model.keras")
    train(model)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.rates == model.optimizer.rates and len(loaded.optimizer.rates) == 4
    train(loaded)
    for path, array in snapshot(loaded).items():
        np.testing.assert_allclose(array, snapshot(model)[path], atol=1e-6, err_msg=path)


def test_rates_fall_from_the_head_to_the_embedding():
    model = classifier(small_bert(num_layers=3), 2)
    expected = {"encoder_2": 0.5, "encoder_1": 0.25, "encoder_0": 0.125}
    expected |= dict.fromkeys(("embedding", "segment_embedding", "embedding_norm"), 0.0625)
    assert layer_decay(model, 0.5) == expected
    assert set(layer_decay(model, 1.0).values()) == {1.0}
    freeze(model, ["embedding*", "segment_*", "encoder_0"])
    assert layer_decay(model, 0.5) == {"encoder_2": 0.5, "encoder_1": 0.25}
    rates = layer_decay(t5(12, 8, 2, 16, 1), 0.5)
    assert rates["decoder_0"] == 0.5 and rates["encoder_0"] == 0.25 and rates["embedding"] == 0.125
    assert "decoder_norm" not in rates


def test_frozen_weights_keep_every_bit_while_the_head_trains():
    model = small_bert()
    everything = trainable_parameters(model)
    assert everything == sum(weight.size for weight in model.get_weights())
    head = classifier(freeze(model), 3)
    assert trainable_parameters(model) == 0
    assert trainable_parameters(head) == 3 * (16 + 1)
    before = snapshot(head)
    inputs, _ = texts(32)
    batches = Batches(inputs, inputs["tokens"][:, 0] % 3)
    fine_tune(head, batches, batches, 0.01, epochs=2, weight_decay=0.1, verbose=0)
    for path, array in snapshot(head).items():
        assert np.array_equal(array, before[path]) == (not path.startswith("probabilities")), path


def test_some_layers_are_frozen_by_name_or_pattern():
    model = tagger(freeze(small_bert(num_layers=3), ["embedding*", "encoder_[01]"]), 3)
    frozen = {"embedding", "embedding_norm", "embedding_dropout", "encoder_0", "encoder_1"}
    assert {layer.name for layer in model.layers if not layer.trainable} == frozen
    before = snapshot(model)
    batches = Batches(*tagged(32))
    fine_tune(model, batches, batches, 0.01, epochs=1, verbose=0)
    for path, array in snapshot(model).items():
        assert np.array_equal(array, before[path]) == (path.partition("/")[0] in frozen), path


def test_it_stops_early_and_keeps_the_best_weights():
    inputs, _ = texts(64)
    generator = np.random.default_rng(0)
    train = Batches(inputs, generator.integers(0, 2, 64))  # there is nothing to learn: it will overfit
    held_out, _ = texts(64, seed=1)
    validation = Batches(held_out, generator.integers(0, 2, 64))
    model = classifier(small_bert(dropout=0.0, masked_lm=False), 2, dropout=0.0)
    history = fine_tune(model, train, validation, 0.02, epochs=30, patience=3, verbose=0)
    best = int(np.argmin(history["val_loss"]))
    assert len(history["val_loss"]) == best + 3 + 1 < 30
    assert set(history) == {"loss", "val_loss", "accuracy", "val_accuracy"}
    again = model.evaluate(validation, verbose=0)[0]
    np.testing.assert_allclose(again, history["val_loss"][best], rtol=1e-5)
    assert history["val_loss"][-1] > again


def test_the_best_weights_are_kept_when_it_does_not_stop_early():
    inputs, _ = texts(64)
    generator = np.random.default_rng(0)
    train, validation = (Batches(inputs, generator.integers(0, 2, 64)) for _ in range(2))
    model = classifier(small_bert(dropout=0.0, masked_lm=False), 2, dropout=0.0)
    history = fine_tune(model, train, validation, 0.02, epochs=6, patience=100, verbose=0)
    assert len(history["val_loss"]) == 6 and np.argmin(history["val_loss"]) < 5
    assert abs(model.evaluate(validation, verbose=0)[0] - min(history["val_loss"])) < 1e-5


def test_the_learning_rate_rises_and_falls_and_long_gradients_are_shortened():
    inputs, _ = texts(64)
    batches = Batches(inputs, inputs["tokens"][:, 0] % 2, size=16)  # 4 in a pass
    model = classifier(small_bert(masked_lm=False), 2)
    rates = {"encoder_*": 0.5}
    fine_tune(
        model, batches, batches, 0.01, epochs=10, patience=100, rates=rates, weight_decay=0.03, verbose=0
    )
    optimizer = model.optimizer
    schedule = [float(ops.convert_to_numpy(optimizer._learning_rate(i))) for i in range(41)]
    assert np.argmax(schedule) == 3 and abs(max(schedule) - 0.01) < 1e-6  # of 40 steps a tenth
    assert abs(schedule[0] - 0.0025) < 1e-6 and schedule[40] < 1e-6
    assert int(ops.convert_to_numpy(optimizer.iterations)) == 40
    config = optimizer.get_config()
    assert (config["rates"], config["weight_decay"], config["global_clipnorm"]) == (rates, 0.03, 1.0)


def test_equal_seeds_give_equal_weights_and_what_weighs_nothing_is_not_learned():
    results = []
    for noise in (0, 1):
        keras.utils.set_random_seed(1)
        model = tagger(small_bert(), 3)
        inputs, labels, weights = tagged(32)
        labels = np.where(weights > 0, labels, noise)
        batches = Batches(inputs, labels, weights)
        fine_tune(model, batches, batches, 0.01, epochs=2, verbose=0)
        results.append(snapshot(model))
    for path, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][path])


def test_a_tagger_learns():
    model = tagger(small_bert(), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that the scores' bias has no gradient is none
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        history = fine_tune(
            model, Batches(*tagged(512)), Batches(*tagged(64, seed=1)), 0.02, epochs=6, verbose=0
        )
    inputs, labels, weights = tagged(64, seed=2)
    right = predicted(model, inputs).argmax(axis=-1) == labels
    assert right[weights > 0].mean() > 0.95 and right[weights == 0].mean() < 0.9  # learned, it would be 1
    assert max(history["val_accuracy"]) > 0.95  # padding does not count


def spans(count, seed=0):
    """The answer starts at token 1 and ends at token 2."""
    inputs, _ = texts(count, seed)
    generator = np.random.default_rng(seed)
    start = generator.integers(0, 3, count)
    end = start + generator.integers(0, 2, count) + 1
    inputs["tokens"][np.arange(count), start] = 1
    inputs["tokens"][np.arange(count), end] = 2
    return inputs, (start, end)


def test_a_span_finder_learns():
    model = span_finder(small_bert())
    history = fine_tune(model, Batches(*spans(512)), Batches(*spans(64, seed=1)), 0.02, epochs=6, verbose=0)
    assert {"val_start_accuracy", "val_end_accuracy"} <= set(history)
    inputs, (start, end) = spans(64, seed=2)
    found = best_span(*predicted(model, inputs))
    assert (found == np.stack([start, end], axis=1)).all(axis=1).mean() > 0.95


def test_a_causal_classifier_learns_with_lora_on_a_frozen_model():
    def labeled(count, seed):
        inputs, real = texts(count, seed)
        last = inputs["tokens"][np.arange(count), real.sum(axis=1) - 1]
        return inputs["tokens"], last % 2

    pretrained = gpt(VOCABULARY, 16, 16, 2, 32, 1)
    table = pretrained.get_layer("embedding").token_table
    table.assign(50 * ops.convert_to_numpy(table))  # vectors as different as training would have made them
    model = classifier(add_lora(pretrained, 4), 2, padding_id=0)
    fine_tune(model, Batches(*labeled(512, 0)), Batches(*labeled(64, 1)), 0.03, epochs=6, verbose=0)
    tokens, labels = labeled(64, 2)
    for one in (model, merge_lora(model)):
        assert (predicted(one, tokens).argmax(axis=1) == labels).mean() > 0.95


def test_text_to_text_one_model_for_two_prefixed_tasks():
    begin, end, prefixes = 1, 2, (10, 11)  # write the word; write the one after it

    def pairs(count, seed):
        generator = np.random.default_rng(seed)
        word, task = generator.integers(0, 7, count), generator.integers(0, 2, count)
        source = np.stack([np.take(prefixes, task), 3 + word], axis=1)
        targets = np.stack([np.full(count, begin), 3 + (word + task) % 7, np.full(count, end)], axis=1)
        inputs = {"source_tokens": source, "target_tokens": targets[:, :-1]}
        return inputs, targets[:, 1:], np.ones((count, 2), "float32")

    model = t5(VOCABULARY, 32, 2, 64, 1, dropout=0.0)
    history = fine_tune(model, Batches(*pairs(512, 0)), Batches(*pairs(64, 1)), 0.01, epochs=6, verbose=0)
    assert set(history) == {"loss", "val_loss"}
    inputs, labels, _ = pairs(64, 2)
    assert (predicted(model, inputs).argmax(axis=-1) == labels).all(axis=1).mean() > 0.95


def test_a_pretrainer_is_taken_as_it_is():
    inputs, real = texts(32)
    rows = Batches(inputs["tokens"][:, :-1], inputs["tokens"][:, 1:], real[:, 1:].astype("float32"))
    trainer = Pretrainer(gpt(VOCABULARY, 16, 16, 2, 32, 1), chunk_size=16)
    history = fine_tune(trainer, rows, rows, 0.01, epochs=3, verbose=0)
    assert history["val_loss"][-1] < history["val_loss"][0]


def test_bad_input():
    model = classifier(small_bert(), 2)
    inputs, _ = texts(4)
    batches = Batches(inputs, np.zeros(4, "int32"))
    nothing = Batches({name: array[:0] for name, array in inputs.items()}, np.zeros(0, "int32"))
    for arguments, message in (
        ({"epochs": 0}, "epochs must be at least 1; received epochs=0"),
        ({"patience": -1}, "patience must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0; received learning_rate=0.0"),
        ({"train": nothing}, "the number of batches in train must be at least 1"),
        ({"validation": nothing}, "the number of batches in validation must be at least 1"),
        (
            {"rates": {"encoder_0": 1, "decoder*": 0.1}},
            "'decoder.' must match the name of a layer; .*encoder_0",
        ),
        ({"rates": {"encoder_0": -1}}, r"rates\['encoder_0'\] must be at least 0"),
    ):
        settings = {"train": batches, "validation": batches, "learning_rate": 0.01, "verbose": 0, **arguments}
        with pytest.raises(ValueError, match=message):
            fine_tune(model, **settings)
    with pytest.raises(
        ValueError, match="'pooled' must match the name of a layer; these are tokens, segments"
    ):
        freeze(model, ["encoder_0", "pooled"])
    assert all(layer.trainable for layer in model.layers)
    for decay in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"decay must be above 0 and at most 1; received decay={decay}"):
            layer_decay(model, decay)
    with pytest.raises(
        ValueError, match="model must hold EncoderBlock or DecoderBlock layers; received 'other'"
    ):
        layer_decay(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)], name="other"), 0.5)
    freeze(model)
    with pytest.raises(
        ValueError, match="must have weights that train; 'bert_classifier' is frozen as a whole"
    ):
        fine_tune(model, batches, batches, 0.01)
