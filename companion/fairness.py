"""Whether a score changes with a word that it should not depend on (article section 8.3)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from companion.evaluation import confidence_interval


class CounterfactualGap(NamedTuple):
    """How far scores move when words change places.

    mean: of the differences, swapped minus given. low, high: its interval. size: the mean distance
    whichever way, >= 0. flipped: share of the texts that cross the threshold, in [0, 1].
    """

    mean: float
    low: float
    high: float
    size: float
    flipped: float


def swap_words(text: str, swaps: Mapping[str, str]) -> str:
    """The text with each word of a pair put in the other's place, whole words only, both ways at once.

    Args:
        text: Any, of words between spaces or marks: Chinese has none.
        swaps: One word or phrase for another, such as {"he": "she", "Ada": "Omar"}. Both ways are meant; no
            word stands in two pairs.
    Returns:
        The text. A word that begins with a capital in the text does so in the other's place, too.
    Raises:
        ValueError: A word of swaps is empty or comes twice, whatever its capitals.
    Source: Lu et al. 2020, section 5, of word pairs. Differs: grammar is left to whoever writes the pairs
    ("her" is "him" or "his").
    """
    pairs = [(one.lower(), other) for pair in swaps.items() for one, other in (pair, pair[::-1])]
    table = dict(pairs)
    if len(table) < len(pairs) or "" in table:
        raise ValueError(f"swaps must hold different words, none of them empty; received {dict(swaps)}.")
    if not table:
        return text
    words = "|".join(re.escape(word) for word in sorted(table, key=len, reverse=True))

    def other(found):
        word = table.get(found[0].lower(), found[0])  # of a letter such as ſ lower() makes another
        return word[0].upper() + word[1:] if found[0][0].isupper() else word

    return re.sub(rf"(?<!\w)(?:{words})(?!\w)", other, text, flags=re.IGNORECASE)


def counterfactual_gap(
    score: Callable[[list[str]], Sequence[float]],
    texts: Sequence[str],
    swaps: Mapping[str, str],
    threshold: float = 0.5,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> CounterfactualGap:
    """How much a score changes when nothing changes but the words of the pairs.

    Args:
        score: Gives each text a float, such as the probability of one class.
        texts: N texts, each with a word of the pairs. To give the mean a direction, write them all with the
            first words of the pairs.
        swaps: As `swap_words`.
        threshold: From this score on a text falls on the one side.
        level, resamples, seed: As `confidence_interval`: the interval is over texts.
    Returns:
        CounterfactualGap.
    Raises:
        ValueError: No texts, a text without a word of the pairs, scores that are not one finite number for
            each text, or as `swap_words` and `confidence_interval`.
    Source: Garg et al. 2019, section 2.2 (the size); Kusner et al. 2017 (the idea). Differs: the signed mean
    beside it, with a bootstrap interval over pairs of texts.
    """
    swapped = [swap_words(text, swaps) for text in texts]
    if unchanged := [text for text, other in zip(texts, swapped, strict=True) if text == other]:
        raise ValueError(f"each text must hold a word of swaps; received {unchanged[0]!r}.")
    given, other = (_scores(score, list(side)) for side in (texts, swapped))
    low, high = confidence_interval(_mean_difference, given, other, level, resamples, seed)
    return CounterfactualGap(
        _mean_difference(given, other),
        low,
        high,
        float(np.abs(other - given).mean()),
        float(((given >= threshold) != (other >= threshold)).mean()),
    )


def augmented(texts: Sequence[str], labels: Sequence, swaps: Mapping[str, str]) -> tuple[list[str], list]:
    """The texts with their labels, and each text that holds a word of the pairs once more, swapped.

    Args:
        texts: N texts: of training only.
        labels: N labels; the swapped text keeps its own.
        swaps: As `swap_words`.
    Returns:
        (texts, labels): N and the swapped ones after them.
    Raises:
        ValueError: The two differ in number, or as `swap_words`.
    Source: Lu et al. 2020, section 5 (counterfactual data augmentation).
    """
    texts, labels = list(texts), list(labels)
    if len(texts) != len(labels):
        raise ValueError(f"texts and labels must be equally many; received {len(texts)} and {len(labels)}.")
    swapped = [swap_words(text, swaps) for text in texts]
    more = [i for i, text in enumerate(texts) if swapped[i] != text]
    return texts + [swapped[i] for i in more], labels + [labels[i] for i in more]


def _mean_difference(given, other):
    return float(np.mean(np.subtract(other, given)))


def _scores(score, texts):
    values = np.asarray(score(texts), np.float64)
    if values.shape != (len(texts),) or not np.isfinite(values).all():
        raise ValueError(
            f"score must give each of {len(texts)} texts a finite number; received shape {values.shape}"
            f"{'' if np.isfinite(values).all() else ' with one that is not finite'}."
        )
    return values
