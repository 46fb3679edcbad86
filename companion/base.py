"""What layers, models and classifiers share: NumPy's numbers taken plain, dropout, the checks of sizes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


def plain(value: Any) -> Any:
    """A NumPy number as Python's own; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def takes_plain_numbers(function: Callable) -> Callable:
    """Let a function be called with NumPy's numbers: Keras refuses some of them, and saves none."""

    @functools.wraps(function)
    def called(*args, **kwargs):
        return function(*map(plain, args), **{name: plain(value) for name, value in kwargs.items()})

    return called


def computes_in_float16(model: keras.Model) -> bool:
    """Whether a model's gradients may vanish unless its loss is scaled, whatever its own policy says."""
    return any(layer.compute_dtype == "float16" for layer in model._flatten_layers())


_new = takes_plain_numbers(keras.layers.Layer.__new__)


class Layer(keras.layers.Layer):
    """A layer that may be made with NumPy's numbers: from its arguments Keras writes down how to load it."""

    def __new__(cls, *args, dtype=None, **kwargs):  # the policy Keras writes down by itself, also an object
        return _new(cls, *args, **kwargs)

    def get_config(self):
        for part in self._flatten_layers():  # one that was loaded has a map of policies, Dense wants its own
            if isinstance(part.dtype_policy, keras.dtype_policies.DTypePolicyMap) and part.path:
                part._dtype_policy = part.dtype_policy[part.path]
        config, parts = super().get_config(), list(self._flatten_layers(include_self=False))
        quantized = {part.path: part.dtype_policy for part in parts if part.quantization_mode}
        if quantized:  # or a saved copy would be made of layers that cannot hold these weights
            policies = keras.dtype_policies.DTypePolicyMap(self.dtype_policy, quantized)
            config["dtype"] = keras.dtype_policies.serialize(policies)
        return config

    get_config._is_default = True  # Keras goes on to write down the arguments


@keras.saving.register_keras_serializable("companion")
class Dropout(Layer):
    """Sets each number to zero with probability rate while training, and scales the others to keep the mean.

    Takes less time on a CPU than keras.layers.Dropout, for half its random bits: 16 decide on each number.

    Args:
        rate: Probability, 0 <= rate < 1, taken to the nearest 1/65,536, but not to 1.
    Call arguments:
        inputs: Float, of any shape.
    Returns:
        As inputs.
    Raises:
        ValueError: rate is outside [0, 1).
    Source: Srivastava et al. 2014, section 10.
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        check_shares(rate=rate)
        self.rate, self.dropped = rate, min(round(2**16 * rate), 2**16 - 1)  # of 65,536
        if rate:
            self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def call(self, inputs, training=False):
        if not training or not self.dropped:
            return inputs
        size = ops.size(inputs)
        words = keras.random.randint(((size + 1) // 2, 1), -(2**31), 2**31 - 1, seed=self.seed_generator)
        halves = ops.reshape(ops.view(words, "int16"), (-1,))[:size]  # -32,768 to 32,767
        kept = ops.reshape(halves, ops.shape(inputs)) >= ops.cast(self.dropped - 2**15, "int16")
        return ops.where(kept, inputs * (2**16 / (2**16 - self.dropped)), ops.cast(0, inputs.dtype))

    def compute_output_shape(self, input_shape):
        return input_shape


def check_at_least(least: int, **numbers: float) -> None:
    """Refuse numbers below the least one; the first of them is named."""
    for name, number in numbers.items():
        if not number >= least:
            raise ValueError(f"{name} must be at least {least}; received {name}={number}.")


def check_shares(**shares: float) -> None:
    """Refuse shares outside [0, 1); the first of them is named."""
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name} must lie in [0, 1); received {name}={share}.")


def check_heads(model_dim: int, num_heads: int, head_dim: int | None = None) -> int:
    """The width of a head; refuse heads that cannot share the width evenly."""
    if head_dim is not None:
        check_at_least(1, model_dim=model_dim, num_heads=num_heads, head_dim=head_dim)
        return head_dim
    if num_heads < 1 or model_dim % num_heads:
        raise ValueError(
            f"num_heads must divide model_dim; received model_dim={model_dim}, num_heads={num_heads}."
        )
    return model_dim // num_heads


def check_width(name: str, shape: Sequence[int | None], model_dim: int) -> None:
    """Refuse a tensor that a block cannot add to its output; width 1 would broadcast and pass unnoticed."""
    if shape[-1] != model_dim:
        raise ValueError(f"{name} must have width model_dim={model_dim}; received shape {tuple(shape)}.")
