"""How good an output is: arrays and strings in, plain numbers out."""

import math
from collections.abc import Callable, Sequence

import numpy as np


def accuracy(expected: Sequence, predicted: Sequence) -> float:
    """Share of labels that were predicted right.

    Args:
        expected: (N,) labels, ints or strings.
        predicted: (N,) labels.
    Returns:
        float in [0, 1].
    Raises:
        TypeError: A label is neither int nor string, such as None.
        ValueError: The two are not rows of the same length, at least 1.
    """
    expected, predicted = _labels(expected, predicted)
    return float(np.mean(expected == predicted))


def macro_f1(expected: Sequence, predicted: Sequence, labels: Sequence | None = None) -> float:
    """Mean of the F1 scores of the classes, each class counting the same.

    Args:
        expected: (N,) labels, ints or strings.
        predicted: (N,) labels.
        labels: The classes; None takes those that occur in either. A class that never occurs has F1 0.
    Returns:
        float in [0, 1].
    Raises:
        TypeError, ValueError: As `accuracy`, or a label is not among labels.
    """
    from sklearn.metrics import f1_score

    expected, predicted = _labels(expected, predicted)
    labels = _classes(expected, predicted, labels)
    return float(f1_score(expected, predicted, labels=labels, average="macro", zero_division=0))


def confusion_matrix(expected: Sequence, predicted: Sequence, labels: Sequence | None = None) -> np.ndarray:
    """Counts how often each class was predicted as each other.

    Args:
        expected: (N,) labels, ints or strings.
        predicted: (N,) labels.
        labels: The C classes in the order of rows and columns; None sorts those that occur.
    Returns:
        (C, C) int64; row: expected, column: predicted.
    Raises:
        TypeError, ValueError: As `accuracy`, or a label is not among labels.
    """
    from sklearn import metrics

    expected, predicted = _labels(expected, predicted)
    return metrics.confusion_matrix(expected, predicted, labels=_classes(expected, predicted, labels))


def exact_match(expected: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of texts that are equal to what was expected, character by character.

    Args:
        expected: N strings.
        predicted: N strings.
    Returns:
        float in [0, 1].
    Raises:
        TypeError: A text is not a string.
        ValueError: The two differ in number, or are empty.
    """
    pairs = _texts(expected, predicted)
    return sum(one == other for one, other in pairs) / len(pairs)


def bleu(expected: Sequence[str], predicted: Sequence[str], language: str = "en") -> float:
    """Corpus BLEU: how many runs of one to four words are shared, with a penalty for brevity.

    Args:
        expected: N reference translations, one for each text.
        predicted: N translations.
        language: What they are written in: "en", or "zh", where each Chinese character counts as a word.
    Returns:
        float in [0, 100].
    Raises:
        TypeError: A text is not a string.
        ValueError: The two differ in number, or are empty; another language.
    Source: Papineni et al. 2002, section 2; computed by sacrebleu (Post 2018).
    """
    from sacrebleu.metrics import BLEU

    pairs, tokenizers = _texts(expected, predicted), {"en": "13a", "zh": "zh"}
    if language not in tokenizers:
        raise ValueError(f'language must be "en" or "zh"; received {language!r}.')
    expected, predicted = zip(*pairs, strict=True)
    return float(BLEU(tokenize=tokenizers[language], force=True).corpus_score(predicted, [expected]).score)


def chrf(expected: Sequence[str], predicted: Sequence[str]) -> float:
    """Corpus chrF: F2 score of runs of one to six characters; suits every language as it is.

    Args:
        expected: N reference translations, one for each text.
        predicted: N translations.
    Returns:
        float in [0, 100].
    Raises:
        TypeError: A text is not a string.
        ValueError: The two differ in number, or are empty.
    Source: Popović 2015, section 2; computed by sacrebleu (Post 2018).
    """
    from sacrebleu.metrics import CHRF

    expected, predicted = zip(*_texts(expected, predicted), strict=True)
    return float(CHRF().corpus_score(predicted, [expected]).score)


def cross_entropy(
    expected: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None, from_logits: bool = True
) -> float:
    """Mean negative log-likelihood of the expected tokens, in nats.

    Args:
        expected: (..., ) ints in [0, V), the true tokens.
        scores: (..., V) floats: logits, or probabilities if from_logits is False.
        weights: (..., ) floats >= 0 or bools, 0 at padding, where nothing is read; None counts every token.
    Returns:
        float >= 0.
    Raises:
        ValueError: Shapes do not fit, a token is outside [0, V), the weights are negative or all 0, or the
            scores are no numbers, or no probabilities where they should be.
    """
    expected, scores = np.asarray(expected), np.asarray(scores, np.float64)
    weights = np.ones(expected.shape) if weights is None else np.asarray(weights, np.float64)
    _check_tokens(expected, scores, weights)
    counted = weights > 0
    scores = _log_probabilities(scores[counted], from_logits)
    likelihood = np.take_along_axis(scores, expected[counted][:, None], -1)[:, 0]
    loss = -(likelihood @ weights[counted]) / weights.sum()
    return float(max(loss, 0.0))  # rounded probabilities may exceed 1


def perplexity(
    expected: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None, from_logits: bool = True
) -> float:
    """Exponential of the cross-entropy: among how many equally likely tokens the model hesitates.

    Args:
        expected: (..., ) ints in [0, V), the true tokens.
        scores: (..., V) floats: logits, or probabilities if from_logits is False.
        weights: (..., ) floats >= 0 or bools, 0 at padding, where nothing is read; None counts every token.
    Returns:
        float >= 1; V for a uniform distribution.
    Raises:
        ValueError: As `cross_entropy`.
    """
    return perplexity_from_loss(cross_entropy(expected, scores, weights, from_logits))


def perplexity_from_loss(loss: float) -> float:
    """Perplexity of a model whose mean negative log-likelihood a token is known.

    Args:
        loss: Nats a token, >= 0, such as Keras's cross-entropy over the real tokens.
    Returns:
        float >= 1.
    Raises:
        ValueError: loss is negative or no number.
    """
    if not loss >= 0:
        raise ValueError(f"loss must be a number of nats, at least 0; received {loss}.")
    return math.exp(loss) if loss < 709 else math.inf


def confidence_interval(
    metric: Callable[[Sequence, Sequence], float],
    expected: Sequence,
    predicted: Sequence,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """How far a metric would spread over other test sets of this size (percentile bootstrap).

    Args:
        metric: Any `metric(expected, predicted)` of this module. A draw may lack a rare class: let
            `functools.partial(macro_f1, labels=...)` name all of them.
        expected: N labels or texts.
        predicted: N labels or texts.
        level: Share of the resamples inside the interval, in (0, 1).
        resamples: How many test sets to draw, with replacement, >= 1.
        seed: Makes the draw repeatable.
    Returns:
        (low, high).
    Raises:
        ValueError: level is not in (0, 1), resamples is below 1, or the two differ in number.
    Source: Efron 1979; Koehn 2004, section 3, for BLEU.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1); received {level}.")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1; received {resamples}.")
    pairs = _pairs(expected, predicted)
    draws = np.random.default_rng(seed).integers(len(pairs), size=(resamples, len(pairs)))
    values = [metric(*zip(*(pairs[i] for i in draw), strict=True)) for draw in draws]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _pairs(expected, predicted):
    expected, predicted = list(expected), list(predicted)
    if not expected or len(expected) != len(predicted):
        counts = f"{len(expected)} and {len(predicted)}"
        raise ValueError(f"expected and predicted must be equally many, at least 1; received {counts}.")
    return list(zip(expected, predicted, strict=True))


def _labels(expected, predicted):
    arrays = np.asarray(expected), np.asarray(predicted)
    if any(array.ndim != 1 for array in arrays):
        shapes = " and ".join(str(array.shape) for array in arrays)
        raise ValueError(f"expected and predicted must be rows of labels; received shapes {shapes}.")
    _pairs(*arrays)
    for array in arrays:
        if strange := [x for x in array.tolist() if not isinstance(x, (str, int, float))]:
            raise TypeError(f"expected and predicted must be ints or strings; received {strange[0]!r}.")
    texts = [array.dtype.kind in "OSU" for array in arrays]
    if texts[0] != texts[1]:
        kinds = " and ".join(str(array.dtype) for array in arrays)
        raise ValueError(f"expected and predicted must be labels of one kind; received {kinds}.")
    return arrays


def _classes(expected, predicted, labels):
    present = sorted(set(expected.tolist()) | set(predicted.tolist()))
    if labels is None:
        return present
    if unlisted := sorted(set(present) - set(np.asarray(labels).tolist())):
        raise ValueError(f"labels must list every label; received none for {unlisted}.")
    return list(labels)


def _texts(expected, predicted):
    for name, texts in (("expected", expected), ("predicted", predicted)):
        if isinstance(texts, str):
            raise TypeError(f"{name} must be a collection of strings; received str.")
    pairs = _pairs(expected, predicted)
    for i, pair in enumerate(pairs):
        for name, text in zip(("expected", "predicted"), pair, strict=True):
            if not isinstance(text, str):
                raise TypeError(f"{name}[{i}] must be a string; received {type(text).__name__}.")
    return pairs


def _log_probabilities(scores, from_logits):  # (N, V)
    if from_logits:
        highest = scores.max(-1, keepdims=True)
        if not np.isfinite(highest).all():  # one NaN is enough; -inf is a probability of 0
            raise ValueError("scores must be numbers; received NaN, infinity, or nothing but -infinity.")
        return scores - highest - np.log(np.exp(scores - highest).sum(-1, keepdims=True))
    if not (scores >= 0).all() or not (abs(scores.sum(-1) - 1) <= 1e-3).all():
        raise ValueError("scores must be probabilities that sum to 1; for logits set from_logits=True.")
    with np.errstate(divide="ignore"):  # probability 0: the loss is infinite
        return np.log(scores)


def _check_tokens(expected, scores, weights):
    if scores.ndim == 0 or scores.shape[:-1] != expected.shape or weights.shape != expected.shape:
        shapes = f"expected {expected.shape}, scores {scores.shape}, weights {weights.shape}"
        raise ValueError(f"expected and weights must have the shape of scores without V; received {shapes}.")
    if not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ValueError("weights must be finite, at least 0, and not all 0.")
    real = expected[weights > 0]
    if expected.dtype.kind not in "iu" or real.min() < 0 or real.max() >= scores.shape[-1]:
        span = f"{expected.dtype} {real.min()} to {real.max()}"
        raise ValueError(f"expected must be ints in [0, {scores.shape[-1]}); received {span}.")
