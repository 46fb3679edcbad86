"""What training costs: operations from the size of a model, days from the number and speed of its devices."""

import math

SECONDS_PER_DAY = 86_400


def gpt_parameters(layers: int, width: int, vocabulary: int, length: int) -> int:
    """The weights of a GPT whose feed-forward layers are four times as wide as the model.

    Args:
        layers: Blocks l, >= 1.
        width: Model width h, >= 1.
        vocabulary: Tokens V, >= 1.
        length: Longest text s, in tokens, >= 1.
    Returns:
        Weights: 12 l h² + 13 l h + (V + s) h, and 2 h of the last normalization.
    Raises:
        ValueError: An argument is below 1 or not finite.
    Source: Narayanan et al. 2021, equation 2. Differs: the last normalization counts.
    """
    _check(layers=layers, width=width, vocabulary=vocabulary, length=length)
    return 12 * layers * width**2 + 13 * layers * width + (vocabulary + length) * width + 2 * width


def training_flops(parameters: float, tokens: float, recompute: bool = False) -> float:
    """Operations to train a model, from its weights alone: 6 N D.

    A weight multiplies and adds once per token forward (2), and twice on the way back (4).

    Args:
        parameters: Weights N that multiply, >= 1. A table that is only looked up costs nothing.
        tokens: Training tokens D, >= 1, each counted as often as it is read.
        recompute: Whether the forward pass runs again on the way back, to save memory: 8 N D.
    Returns:
        Floating-point operations: a multiplication is one, an addition is one.
    Raises:
        ValueError: An argument is below 1 or not finite.
    Source: Kaplan et al. 2020, section 2.1; with recompute Narayanan et al. 2021, equation 4. Attention's own
    products are left out: `batch_flops` counts them.
    """
    _check(parameters=parameters, tokens=tokens)
    return float((8 if recompute else 6) * parameters * tokens)


def batch_flops(
    batch: int, length: int, layers: int, width: int, vocabulary: int, recompute: bool = True
) -> float:
    """Operations of one training step of a GPT: 96 B s l h² (1 + s / 6h + V / 16lh).

    Args:
        batch: Texts B, >= 1.
        length: Tokens of each s, >= 1.
        layers: Blocks l, >= 1.
        width: Model width h, >= 1; feed-forward layers have 4 h.
        vocabulary: Tokens V that are scored at each position, >= 1.
        recompute: Whether the blocks run forward again on the way back; if not, they cost three quarters.
    Returns:
        Floating-point operations of the matrix products.
    Raises:
        ValueError: An argument is below 1 or not finite.
    Source: Narayanan et al. 2021, equation 3 and its appendix. A causal model's products are counted in full,
    as there, though half of the scores are masked.
    """
    _check(batch=batch, length=length, layers=layers, width=width, vocabulary=vocabulary)
    tokens = batch * length
    blocks = 24 * tokens * layers * width**2 * (1 + length / (6 * width))
    return float((4 if recompute else 3) * blocks + 6 * tokens * width * vocabulary)


def training_days(flops: float, devices: int, flops_per_second: float) -> float:
    """How long a training run takes: 8 T P / n X, if flops comes from `training_flops` with recompute.

    Args:
        flops: Operations of the whole run, >= 1.
        devices: How many work at a time n, >= 1.
        flops_per_second: What each achieves X, >= 1, in operations per second: measured.
    Returns:
        Days of 86,400 seconds. Nothing is added for failures and restarts.
    Raises:
        ValueError: An argument is below 1 or not finite.
    Source: Narayanan et al. 2021, equation 4.
    """
    _check(flops=flops, devices=devices, flops_per_second=flops_per_second)
    return flops / (devices * flops_per_second * SECONDS_PER_DAY)


def pf_days(flops: float) -> float:
    """Operations in petaflop/s-days, the unit of Brown et al. 2020, table D.1: 8.64e19 operations each.

    Args:
        flops: Operations, >= 1.
    Returns:
        Days that a machine of 1e15 operations per second needs.
    Raises:
        ValueError: flops is below 1 or not finite.
    """
    return training_days(flops, 1, 1e15)


def _check(**numbers):
    for name, value in numbers.items():
        if not 1 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number of at least 1; received {name}={value}.")
