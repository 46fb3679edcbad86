"""When to answer and when to pass a case on to a person: thresholds, risk and coverage."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class RiskCoverage(NamedTuple):
    """What each threshold costs: three (K,) float64 columns, thresholds falling, coverage rising to 1."""

    thresholds: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray

    @property
    def area(self) -> float:
        """Area under the risk over coverage, in [0, 1]: 0 if every answer is right, lower is better."""
        return float(np.diff(self.coverage, prepend=0) @ self.risk)


class SelectiveAccuracy(NamedTuple):
    """The share right of what was answered, low and high of its interval, the share answered, how many."""

    accuracy: float
    low: float
    high: float
    coverage: float
    answered: int


def risk_coverage(scores: Sequence[float], correct: Sequence[bool]) -> RiskCoverage:
    """The share of wrong answers among the answered, for each threshold that makes a difference.

    Answered is what scores at least the threshold. Equal scores are answered together or not at all.

    Args:
        scores: (N,) finite floats, higher is surer: probabilities, margins.
        correct: (N,) bools or 0 and 1: was the answer right?
    Returns:
        RiskCoverage with one entry for each of the K different scores; coverage and risk in [0, 1].
    Raises:
        ValueError: The two are not rows of one length, at least 1; a score is not finite; correct is neither
            0 nor 1.
    Source: Chow 1970 (error against rejection); El-Yaniv and Wiener 2010 (risk over coverage); Geifman, Uziel
    and El-Yaniv 2019 (the area). Differs: ties are one step.
    """
    scores, correct = _checked(scores, correct)
    thresholds, place = np.unique(-scores, return_inverse=True)
    answered = np.cumsum(np.bincount(place))
    wrong = np.cumsum(np.bincount(place, 1 - correct))
    return RiskCoverage(-thresholds, answered / len(scores), wrong / answered)


def threshold_for(
    scores: Sequence[float], correct: Sequence[bool], accuracy: float, confidence: float | None = None
) -> float:
    """The lowest threshold that keeps the answered as accurate as wanted: the most coverage for that price.

    Choose it on validation data and report `selective_accuracy` on test data.

    Args:
        scores: (N,) finite floats, higher is surer.
        correct: (N,) bools.
        accuracy: Wanted share of right answers, in (0, 1].
        confidence: None: the accuracy is reached on these N cases. In (0, 1): it holds for new cases of the
            same kind with this probability; that costs coverage.
    Returns:
        The threshold; inf, at which nothing is answered, if none will do.
    Raises:
        ValueError: As `risk_coverage`; accuracy or confidence out of range.
    Source: Geifman and El-Yaniv 2017, algorithm 1, for confidence. Differs: the best that passed is kept.
    """
    if not 0 < accuracy <= 1:
        raise ValueError(f"accuracy must be in (0, 1]; received {accuracy}.")
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(f"confidence must be None or in (0, 1); received {confidence}.")
    curve, count = risk_coverage(scores, correct), len(scores)
    if confidence is None:
        good = np.flatnonzero(1 - curve.risk >= accuracy - 1e-12)
        return float(curve.thresholds[good[-1]]) if len(good) else math.inf

    looks = math.ceil(math.log2(len(curve.thresholds))) + 1  # the error is shared among them
    best, first, last = math.inf, 0, len(curve.thresholds) - 1
    while first <= last:
        middle = (first + last) // 2
        answered = round(curve.coverage[middle] * count)
        right = answered - round(curve.risk[middle] * answered)
        if _lower(right, answered, (1 - confidence) / looks) >= accuracy:
            best, first = float(curve.thresholds[middle]), middle + 1
        else:
            last = middle - 1
    return best


def selective_accuracy(
    scores: Sequence[float], correct: Sequence[bool], threshold: float, level: float = 0.95
) -> SelectiveAccuracy:
    """How often the answered are right, with the exact binomial interval, and how many are answered at all.

    Args:
        scores: (N,) finite floats, higher is surer.
        correct: (N,) bools.
        threshold: Answered is what scores at least this much.
        level: Least probability that the interval holds the true accuracy, in (0, 1).
    Returns:
        SelectiveAccuracy; if nothing is answered, accuracy is NaN and the interval [0, 1].
    Raises:
        ValueError: As `risk_coverage`; threshold is NaN, level out of range.
    Source: Clopper and Pearson 1934.
    """
    scores, correct = _checked(scores, correct)
    if math.isnan(threshold):
        raise ValueError("threshold must be a number; received NaN.")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1); received {level}.")
    answered = correct[scores >= threshold]
    count, right, tail = len(answered), round(answered.sum()), (1 - level) / 2
    low, high = _lower(right, count, tail), 1 - _lower(count - right, count, tail)
    return SelectiveAccuracy(right / count if count else math.nan, low, high, count / len(scores), count)


def _lower(right: int, count: int, tail: float) -> float:
    """The least true share at which so many right or more come with probability `tail`."""
    return float(stats.beta.ppf(tail, right, count - right + 1)) if right else 0.0


def _checked(scores, correct):
    scores, correct = np.asarray(scores, np.float64), np.asarray(correct, np.float64)
    if scores.ndim != 1 or scores.shape != correct.shape or not len(scores):
        shapes = f"{scores.shape} and {correct.shape}"
        raise ValueError(
            f"scores and correct must be rows of one length, at least 1; received shapes {shapes}."
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite; received {scores[~np.isfinite(scores)][0]}.")
    if strange := sorted(set(correct.tolist()) - {0.0, 1.0}):
        raise ValueError(f"correct must be bools, or 0 and 1; received {strange[0]}.")
    return scores, correct
