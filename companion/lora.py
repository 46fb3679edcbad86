"""Low-rank adaptation: a few small matrices train in place of the model (article section 3.2, step 4)."""

import os
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
from keras import ops

from companion.base import Layer, check_at_least, takes_plain_numbers
from companion.decoder import DecoderBlock
from companion.encoder import EncoderBlock


@takes_plain_numbers
def add_lora(model, rank: int, alpha: float | None = None, targets=("query", "value")):
    """A copy of the model that trains only A and B in kernel + alpha / rank · A B; the kernel stays.

    B starts at zero, so that the copy computes what the model does. Add a head to the copy afterwards: what
    is added later trains. It saves to `.keras` as it is; `merge_lora` makes an ordinary model of it.

    Args:
        model: A functional model with `EncoderBlock` or `DecoderBlock` layers; it stays as it is.
        rank: Width r of A (in, r) and B (r, out), >= 1.
        alpha: How much the product counts, > 0; rank if not given.
        targets: Names of the dense layers in the blocks that get one: "query", "key", "value", "output"
            (of attention and of the feed-forward network), "hidden", "gate".
    Returns:
        keras.Model, not compiled for its new weights; `trainable_parameters` counts r (in + out) for each
        target.
    Raises:
        ValueError: rank is below 1, alpha is not above 0, the blocks lack a target, or the model has no
            blocks without LoRA.
    Source: Hu et al. 2021, section 4.1. Differs: A starts as a Gaussian of variance 1 / in.
    """
    check_at_least(1, rank=rank)
    alpha = rank if alpha is None else alpha
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0; received alpha={alpha}.")
    blocks = [layer for layer in model.layers if type(layer) in _ADAPTED]
    if not blocks:
        raise ValueError(
            "model must hold EncoderBlock or DecoderBlock layers without LoRA; "
            f"received {model.name!r} without any."
        )
    for block in blocks:
        names = {layer.name for *_, layer in _dense_layers(block)}
        if not targets or not set(targets) <= names:
            raise ValueError(
                f"targets must be some of {', '.join(sorted(names))}; received targets={targets!r}."
            )
    settings = {"rank": rank, "alpha": alpha, "targets": targets}

    def adapted(layer):
        if type(layer) in _ADAPTED:
            return _ADAPTED[type(layer)], layer.get_config() | settings
        return type(layer), layer.get_config()

    copy = _rebuilt(model, adapted)
    for layer in copy.layers:
        if not isinstance(layer, _LoRABlock):
            layer.trainable = False
    return copy


def merge_lora(model):
    """A copy of the model with each A B added to its kernel: no LoRA, and all weights train again.

    Args:
        model: From `add_lora`, with or without a head.
    Returns:
        keras.Model that computes the same, with the weights of the model which `add_lora` was given.
    Raises:
        ValueError: The model has no LoRA.
    Source: Hu et al. 2021, section 4.1.
    """
    if not any(isinstance(layer, _LoRABlock) for layer in model.layers):
        raise ValueError(f"model must come from add_lora; received {model.name!r} without LoRA.")
    plain = {adapted: block for block, adapted in _ADAPTED.items()}

    def merged(layer):
        config = layer.get_config()
        if type(layer) in plain:
            config = {name: config[name] for name in config if name not in ("rank", "alpha", "targets")}
        return plain.get(type(layer), type(layer)), config

    return _rebuilt(model, merged)


def save_trainable(path: str | os.PathLike, model) -> None:
    """Writes the weights that train, and no others: those of LoRA and of a head. Whole or not at all.

    Args:
        path: A new file, or one to replace; .npz.
        model: A model with weights that train.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    weights = _trainable(model)
    arrays = {name: ops.convert_to_numpy(ops.cast(weights[name], "float32")) for name in weights}
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_trainable(path: str | os.PathLike, model) -> None:
    """Reads what `save_trainable` wrote into a model made the same way.

    Args:
        path: The file.
        model: Its other weights must be those that the saved ones were trained with; this is not checked.
    Raises:
        ValueError: The file is damaged, or holds other weights than those of the model that train; then none
            is set.
    """
    weights = _trainable(model)
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError) as error:
        raise ValueError(
            f"path must hold what save_trainable wrote; {path} is something else, or damaged."
        ) from error
    for name in weights.keys() | arrays.keys():
        wanted, found = (tuple(some[name].shape) if name in some else None for some in (weights, arrays))
        if wanted != found:
            raise ValueError(f"{path} must hold {name} of shape {wanted}; it holds {found}.")
    for name, weight in weights.items():
        weight.assign(arrays[name])


class LoRADense(Layer):
    """A dense layer with a product of two thin matrices beside its kernel, which does not train.

    Args:
        dense: keras.layers.Dense, not built yet.
        rank, alpha: see `add_lora`.
    Call arguments:
        x: (..., in) float.
    Returns:
        (..., out) float.
    """

    def __init__(self, dense, rank, alpha):
        super().__init__(name=f"lora_{dense.name}", dtype=dense.dtype_policy)
        self.dense, self.units, self.rank, self.scale = dense, dense.units, rank, alpha / rank
        # what is added is added before the nonlinearity
        self.activation, dense.activation = dense.activation, keras.activations.linear

    def build(self, x_shape):
        self.dense.build(x_shape)
        self.a = self.add_weight(name="a", shape=(x_shape[-1], self.rank), initializer="lecun_normal")
        self.b = self.add_weight(name="b", shape=(self.rank, self.units), initializer="zeros")

    def call(self, x):
        return self.activation(self.dense(x) + self.scale * ops.matmul(ops.matmul(x, self.a), self.b))

    def merged_kernel(self):
        """(in, out): the kernel of a dense layer that does the same."""
        return self.dense.kernel + self.scale * ops.matmul(self.a, self.b)


class _LoRABlock:
    """A block with `LoRADense` in the place of some of its dense layers."""

    def __init__(self, rank, alpha, targets, **kwargs):
        super().__init__(**kwargs)
        self.adapters = []
        for part, attribute, layer in _dense_layers(self):
            if layer.name in targets:
                self.adapters.append(LoRADense(layer, rank, alpha))
                setattr(part, attribute, self.adapters[-1])

    def _freeze(self):
        adapters = {id(weight) for adapter in self.adapters for weight in (adapter.a, adapter.b)}
        for weight in self.weights:
            weight.trainable = id(weight) in adapters


@keras.saving.register_keras_serializable("companion")
class LoRAEncoderBlock(_LoRABlock, EncoderBlock):
    """An `EncoderBlock` of which only LoRA's matrices train; rank, alpha and targets as in `add_lora`."""

    def build(self, source_shape):
        super().build(source_shape)
        self._freeze()


@keras.saving.register_keras_serializable("companion")
class LoRADecoderBlock(_LoRABlock, DecoderBlock):
    """A `DecoderBlock` of which only LoRA's matrices train; rank, alpha and targets as in `add_lora`."""

    def build(self, target_shape, source_shape=None):
        super().build(target_shape, source_shape)
        self._freeze()


_PARTS = ("attention", "self_attention", "source_attention", "feed_forward")
_ATTRIBUTES = (*(f"{name}_projection" for name in ("query", "key", "value", "output")), "hidden", "gate")
_ADAPTED = {EncoderBlock: LoRAEncoderBlock, DecoderBlock: LoRADecoderBlock}


def _rebuilt(model, variant):
    """A copy of the model: `variant` gives each layer's class and config; the weights are merged."""

    def copied(layer):
        kind, config = variant(layer)
        if isinstance(layer, keras.layers.Layer):
            config = config | {"trainable": True}  # set later it would not reach weights made without it
        return kind.from_config(config)

    copy = keras.models.clone_model(model, clone_function=copied)
    values = {_plain_path(weight): weight for weight in model.weights}
    for layer in model.layers:
        for adapter in getattr(layer, "adapters", ()):
            values[_plain_path(adapter.dense.kernel)] = adapter.merged_kernel()
    for weight in copy.weights:
        if not re.search(r"/lora_\w+/[ab]$", weight.path):
            # a copy: JAX would share the array, and delete it when one of the models trains
            weight.assign(np.array(ops.convert_to_numpy(values[_plain_path(weight)])))
    return copy


def _dense_layers(block):
    """The dense layers in a block's parts: [(part, name of its attribute, layer)]."""
    parts = [getattr(block, name) for name in _PARTS if hasattr(block, name)]
    found = [(part, name, getattr(part, name, None)) for part in parts for name in _ATTRIBUTES]
    return [row for row in found if row[2] is not None]


def _plain_path(weight):
    """Where a weight would be without LoRA."""
    return re.sub(r"/lora_\w+?(?=/)", "", weight.path)


def _trainable(model):
    return {weight.path: weight for weight in model.trainable_weights}
