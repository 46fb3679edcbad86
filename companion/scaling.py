"""How loss falls with size: a power law, fitted to small models, asked about larger ones (section 8.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from companion.base import check_at_least

LEAST_SIZES = 4  # a law has three numbers
STARTS = [(share, exponent) for share in (0.1, 0.5, 0.9) for exponent in (0.1, 0.4, 1.0)]


class PowerLaw(NamedTuple):
    """L(N) = floor + (scale / N) ** exponent.

    floor: L_inf, the loss that no size goes below, in the unit of the losses, >= 0.
    scale: N_c, the size at which the rest of the loss is 1.
    exponent: alpha, how steeply the rest falls, from 0.02 to 5.
    """

    floor: float
    scale: float
    exponent: float

    def predict(self, sizes: Sequence[float]) -> np.ndarray:
        """The loss at each size: (S,) positive numbers to (S,) float."""
        return self.floor + (self.scale / np.asarray(sizes, float)) ** self.exponent


def fit_power_law(sizes: Sequence[float], losses: Sequence) -> PowerLaw:
    """The law whose logarithms are nearest, by least squares, to those of the losses.

    Args:
        sizes: (S,) positive numbers, such as weights; at least 4 different ones.
        losses: (S,) or (S, R) positive numbers, such as nats per token: R runs of each size.
    Returns:
        The best of the fits from nine starts.
    Raises:
        ValueError: There are fewer than 4 sizes, a number is not positive and finite, or the two differ in
            length.
    Source: Kaplan et al. 2020, equation 1.1, to which Hoffmann et al. 2022, equation 10, add the floor.
    Differs: size alone, at one amount of text; squares of logarithms, not Huber's loss of them.
    """
    sizes, losses = _checked(sizes, losses)
    return _law(_fitted(sizes, losses, STARTS), sizes)


def power_law_interval(
    sizes: Sequence[float],
    losses: Sequence,
    at: Sequence[float],
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Between which losses the law lies, at some sizes: a bootstrap over all runs' residuals.

    Each resample adds residuals, drawn with replacement, to the fitted logarithms and fits anew. So the
    interval holds what seeds do, and how far the means lie beside the law, if both are alike at all sizes. It
    is one for the law, not for a single run, and knows of no other law. From few residuals it is rather too
    narrow: with four sizes and two runs, about 9 in 10 of simulated intervals at 0.95 held the truth.

    Args:
        sizes, losses: As for `fit_power_law`.
        at: (A,) positive sizes.
        level: Share of the resamples inside the interval, in (0, 1).
        resamples: How many, >= 1.
        seed: Makes the draw repeatable.
    Returns:
        low, high: (A,) float each.
    Raises:
        ValueError: As `fit_power_law`, level is not in (0, 1), or resamples is below 1.
    Source: Efron 1979, section 7: residuals, which are widened here for the three numbers that were fitted.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1); received level={level}.")
    check_at_least(1, resamples=resamples)
    sizes, losses = _checked(sizes, losses)
    best = _fitted(sizes, losses, STARTS)
    fitted = np.log(_law(best, sizes).predict(sizes))[:, None]
    residuals = (np.log(losses) - fitted).ravel() * np.sqrt(losses.size / (losses.size - 3))
    draws = np.random.default_rng(seed).choice(residuals, size=(resamples, *losses.shape))
    start = [(float(np.clip(best[0], 0.05, 0.95)), float(np.clip(best[2], 0.03, 4)))]
    laws = [_law(_fitted(sizes, np.exp(fitted + draw), start), sizes) for draw in draws]
    low, high = np.quantile([law.predict(at) for law in laws], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _fitted(sizes, losses, starts):
    """The floor as a share of the least mean loss, log of the rest at the sizes' geometric mean (better
    behaved than N_c), exponent; and that least loss."""
    away = np.log(sizes) - np.log(sizes).mean()
    least, most = losses.mean(axis=1).min(), losses.max()

    def residuals(x):
        floor, log_rest, exponent = x
        return (np.log(least * floor + np.exp(log_rest - exponent * away))[:, None] - np.log(losses)).ravel()

    low, high = (0, np.log(1e-6 * most), 0.02), (1, np.log(2 * most), 5)
    fits = [
        least_squares(
            residuals,
            (share, np.log(np.median(losses.mean(axis=1)) - share * least), exponent),
            bounds=(low, high),
            xtol=1e-10,
            ftol=1e-12,
            gtol=1e-12,
        )
        for share, exponent in starts
    ]
    x = min(fits, key=lambda fit: fit.cost).x
    return (*x, least)


def _law(x, sizes):
    share, log_rest, exponent, least = map(float, x)
    return PowerLaw(share * least, float(np.exp(log_rest / exponent + np.log(sizes).mean())), exponent)


def _checked(sizes, losses):
    """(S,) and (S, R) float."""
    sizes, losses = np.asarray(sizes, float), np.asarray(losses, float)
    if sizes.ndim != 1 or len(np.unique(sizes)) < LEAST_SIZES:
        raise ValueError(f"sizes must be a row of at least 4 different numbers; received {sizes}.")
    if losses.ndim not in (1, 2) or len(losses) != len(sizes) or not losses.size:
        raise ValueError(
            f"losses must be (S,) or (S, R) for S = {len(sizes)} sizes; received shape {losses.shape}."
        )
    for name, numbers in (("sizes", sizes), ("losses", losses)):
        if not (np.isfinite(numbers) & (numbers > 0)).all():
            raise ValueError(f"{name} must be positive and finite; received {numbers}.")
    return sizes, losses.reshape(len(sizes), -1)
