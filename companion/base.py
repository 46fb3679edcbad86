"""What layers, models and classifiers share: NumPy's numbers taken as plain ones, the checks of sizes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np


def plain(value: Any) -> Any:
    """A NumPy number as Python's own; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def takes_plain_numbers(function: Callable) -> Callable:
    """Let a function be called with NumPy's numbers: Keras refuses some of them, and saves none."""

    @functools.wraps(function)
    def called(*args, **kwargs):
        return function(*map(plain, args), **{name: plain(value) for name, value in kwargs.items()})

    return called


class Layer(keras.layers.Layer):
    """A layer that may be made with NumPy's numbers: from its arguments Keras writes down how to load it."""

    __new__ = takes_plain_numbers(keras.layers.Layer.__new__)


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
