"""Fine-tuning a pretrained model: what trains, how fast, and for how long (article section 3.2, step 4).

    model = classifier(pretrained, num_classes=2)
    fine_tune(model, train, validation, learning_rate=5e-5, rates=layer_decay(model, 0.9))

With `freeze(pretrained)` before the head only the head trains; with `add_lora(pretrained, rank=8)` the head
and a few small matrices (see `companion.lora`).
"""

import fnmatch
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence

import keras
from keras import ops

from companion.base import check_at_least, computes_in_float16
from companion.decoder import DecoderBlock
from companion.encoder import EncoderBlock
from companion.pretraining import Pretrainer, WarmupCosine, vocabulary_head


def freeze(model: keras.Model, names: Sequence[str] = ("*",)) -> keras.Model:
    """Stops layers from training: a head that is added afterwards trains alone.

    Models that share the layers are frozen with it. Do it before compiling; and again after loading from
    `.keras`, for Keras does not keep it for layers in layers. Dropout still drops.

    Args:
        model: Any model; of a functional one the layers are listed by `model.summary()`.
        names: Names of layers, or patterns: "embedding*", "encoder_[0-3]".
    Returns:
        The same model.
    Raises:
        ValueError: A name matches no layer.
    """
    found = _matching(names, [layer.name for layer in model.layers])
    for layer in model.layers:
        if layer.name in found:
            layer.trainable = False
    return model


def trainable_parameters(model: keras.Model) -> int:
    """The number of single numbers that training changes."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def layer_decay(model: keras.Model, decay: float) -> dict[str, float]:
    """Smaller learning rates for layers nearer to the input, as `rates` of `fine_tune`.

    Args:
        model: A model with `EncoderBlock` or `DecoderBlock` layers.
        decay: From each block to the one before it, 0 < decay <= 1.
    Returns:
        {layer name: factor}: decay for the last block, its square for the one before, and so on; the layers
        before the first block come with it, one power lower. Those after the last block, the head above all,
        are left at 1.
    Raises:
        ValueError: The model has no blocks, or decay is out of range.
    Source: Howard and Ruder 2018, section 3.2, where decay is 1 / 2.6; Clark et al. 2020, appendix B.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be above 0 and at most 1; received decay={decay}.")
    rates, depth = {}, 0
    for layer in reversed(model.layers):
        is_block = isinstance(layer, EncoderBlock | DecoderBlock)
        depth += is_block
        if depth and layer.trainable_weights:
            rates[layer.name] = decay ** (depth if is_block else depth + 1)
    if not depth:
        raise ValueError(f"model must hold EncoderBlock or DecoderBlock layers; received {model.name!r}.")
    return rates


@keras.saving.register_keras_serializable("companion")
class GroupedAdamW(keras.optimizers.AdamW):
    """AdamW with a learning rate of its own for each group of layers.

    Args:
        learning_rate: A number, or one of Keras's schedules.
        rates: {layer name or pattern: factor >= 0}, for layers and for layers in them ("encoder_*", "query");
            the first that matches counts; others have factor 1. Factor 0 leaves the weights as they are.
        weight_decay: Share of a matrix taken off at each step, times its learning rate. Biases and scales do
            not decay.
        **kwargs: Of `keras.optimizers.AdamW`.
    Raises:
        ValueError: A rate is negative, or, when training begins, matches no layer that trains.
    Source: Loshchilov and Hutter 2019, algorithm 2. Differs: weights of rank 1 do not decay (as in Devlin et
    al. 2019's code).
    """

    def __init__(self, learning_rate=0.001, rates=None, weight_decay=0.01, **kwargs):
        super().__init__(learning_rate, weight_decay, **kwargs)
        self.rates = dict(rates or {})
        check_at_least(0, **{f"rates[{name!r}]": factor for name, factor in self.rates.items()})

    def build(self, variables):
        super().build(variables)
        names = [variable.path.split("/")[:-1] for variable in variables]
        _matching(self.rates, sum(names, []))
        self.factors = [_first_match(self.rates, some) for some in names]

    def update_step(self, gradient, variable, learning_rate):
        factor = self.factors[self._get_variable_index(variable)]
        learning_rate = ops.cast(learning_rate, variable.dtype) * factor
        if len(variable.shape) > 1 and self.weight_decay and self._use_weight_decay(variable):
            self.assign_sub(variable, variable * self.weight_decay * learning_rate)
        super().update_step(gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables):
        """Each weight's own step does it: Keras's knows one learning rate only."""

    def get_config(self):
        return super().get_config() | {"rates": dict(self.rates)}


def fine_tune(
    model: keras.Model,
    train: Iterable,
    validation: Iterable,
    learning_rate: float,
    epochs: int = 10,
    patience: int = 2,
    rates: Mapping[str, float] | None = None,
    weight_decay: float = 0.01,
    verbose: int | str = 2,
) -> dict[str, list[float]]:
    """Trains until the loss on held-out data stops falling, and keeps the weights that were best there.

    The learning rate rises over a tenth of the steps, then falls along half a cosine; gradients longer than 1
    are shortened.

    Args:
        model: With a head from this module; or one that ends in the logits of tokens (`gpt`, `t5`, `bert`),
            which `Pretrainer` then trains.
        train: Batches of (inputs, labels) or (inputs, labels, weights), taken as they come: a
            tf.data.Dataset, or what else `fit` reads and has a len.
        validation: The same, to stop by. Never the test data: what was chosen by it says nothing any more.
        learning_rate: The largest one, > 0.
        epochs: Most passes, >= 1; the learning rate reaches 0 in the last step of the last one.
        patience: Passes without a smaller held-out loss before stopping, >= 0.
        rates, weight_decay: see `GroupedAdamW`.
        verbose: As of `fit`; 2: a line per pass.
    Returns:
        "loss", "val_loss" and, with a head, accuracies: lists, a number per pass.
    Raises:
        ValueError: Nothing trains, there is no batch, or a number is out of its range.
    Source: Devlin et al. 2019, appendix A.3. Differs: a cosine in place of the straight line; stops early.
    """
    check_at_least(1, epochs=epochs)
    check_at_least(0, patience=patience)
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be above 0; received learning_rate={learning_rate}.")
    if not model.trainable_weights:
        raise ValueError(f"model must have weights that train; {model.name!r} is frozen as a whole.")
    train, steps = _counted(train, "train")
    validation, _ = _counted(validation, "validation")
    steps *= epochs
    schedule = WarmupCosine(learning_rate, max(1, steps // 10), max(2, steps))
    optimizer = GroupedAdamW(schedule, rates, weight_decay, global_clipnorm=1.0)
    if isinstance(model, Pretrainer) or vocabulary_head(model) is not None:
        model = model if isinstance(model, Pretrainer) else Pretrainer(model)
        model.compile(optimizer)
    else:
        if computes_in_float16(model) and model.dtype_policy.name != "mixed_float16":  # else Keras does it
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        accuracies = [["accuracy"] for _ in model.outputs]
        model.compile(optimizer, "sparse_categorical_crossentropy", weighted_metrics=accuracies)
    best = keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)
    with warnings.catch_warnings():
        # a head may leave weights of the model unread, such as the biases of its scores
        warnings.filterwarnings("ignore", "Gradients do not exist")
        settings = {"epochs": epochs, "callbacks": [best], "verbose": verbose, "shuffle": False}
        fitted = model.fit(train, validation_data=validation, **settings)
    return fitted.history


def _matching(patterns, names):
    """The names that match a pattern; refuses a pattern that matches none."""
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(
                f"{pattern!r} must match the name of a layer; these are {', '.join(dict.fromkeys(names))}."
            )
    return {name for pattern in patterns for name in fnmatch.filter(names, pattern)}


def _first_match(rates, names):
    return next((factor for pattern, factor in rates.items() if fnmatch.filter(names, pattern)), 1.0)


def _counted(batches, name):
    """The batches and their number. A tf.data.Dataset is told it: where Keras finds the end of one by running
    into it, weights decay and the learning rate moves on once more, without a batch."""
    count = int(batches.cardinality()) if hasattr(batches, "cardinality") else len(batches)
    if count < 0:
        import tensorflow as tf

        if count == tf.data.INFINITE_CARDINALITY:
            raise ValueError(f"{name} must end; received batches without an end.")
        count = sum(1 for _ in batches)
        batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    check_at_least(1, **{f"the number of batches in {name}": count})
    return batches, count
