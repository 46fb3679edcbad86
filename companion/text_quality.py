"""How good a written text is: overlap with a reference (ROUGE), variety, and repetition."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence

TOKEN = {"en": re.compile(r"[a-z0-9]+"), "zh": re.compile(r"[\u4e00-\u9fff]|[a-z0-9]+")}


def tokens(text: str, language: str = "en") -> list[str]:
    """The units that this module counts: lower-case words and numbers; each Chinese character is one.

    Args:
        text: Any text; punctuation is left out.
        language: "en", which leaves Chinese characters out too, or "zh".
    Returns:
        Strings.
    Raises:
        ValueError: another language.
    """
    if language not in TOKEN:
        raise ValueError(f'language must be "en" or "zh"; received {language!r}.')
    return TOKEN[language].findall(text.lower())


def rouge(
    expected: Sequence[str], predicted: Sequence[str], kind: int | str = "L", language: str = "en"
) -> float:
    """Mean ROUGE F1 of texts: the share of what reference and prediction have in common.

    Args:
        expected: N references.
        predicted: N texts.
        kind: 1 counts common words, 2 common pairs of neighbors; "L" the longest common subsequence.
        language: What `tokens` takes.
    Returns:
        float in [0, 1]. A pair without anything to count scores 0.
    Raises:
        ValueError: expected and predicted differ in number or are empty, or another kind or language.
    Source: Lin 2004, sections 2 and 3. Differs: one reference each; precision and recall weigh the same; a
    text of several sentences is one sequence.
    """
    if kind != "L" and kind not in (1, 2):
        raise ValueError(f'kind must be 1, 2 or "L"; received {kind!r}.')
    if not expected or len(expected) != len(predicted):
        counts = f"{len(expected)} and {len(predicted)}"
        raise ValueError(f"expected and predicted must be equally many, at least 1; received {counts}.")
    texts = zip(expected, predicted, strict=True)
    scores = [_f1(tokens(one, language), tokens(other, language), kind) for one, other in texts]
    return sum(scores) / len(scores)


def distinct_n(texts: Sequence[str], n: int = 2, language: str = "en") -> float:
    """Share of different n-grams among all n-grams of the texts: 1 if none comes twice.

    It falls with the number of words counted: compare texts of equal total length only.

    Args:
        texts: Texts; n-grams do not cross from one to the next.
        n: Tokens of an n-gram, >= 1.
        language: What `tokens` takes.
    Returns:
        float in [0, 1]; 0 if there is no n-gram.
    Raises:
        ValueError: n below 1, or another language.
    Source: Li et al. 2016, section 5. Differs: divides by the number of n-grams, not of words.
    """
    grams = [gram for text in texts for gram in _ngrams(tokens(text, language), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition_rate(texts: Sequence[str], n: int = 3, language: str = "en") -> float:
    """Share of n-grams that the same text has already said, the mean over texts.

    Args:
        texts: Texts; those shorter than n tokens repeat nothing.
        n: Tokens of an n-gram, >= 1.
        language: What `tokens` takes.
    Returns:
        float in [0, 1).
    Raises:
        ValueError: there is no text, n below 1, or another language.
    Source: Welleck et al. 2020, section 6.1, "seq-rep-n".
    """
    if not texts:
        raise ValueError("texts must hold at least one text; received none.")
    return sum(_repeated(_ngrams(tokens(text, language), n)) for text in texts) / len(texts)


def _f1(expected: list[str], predicted: list[str], kind: int | str) -> float:
    if kind == "L":
        common, sizes = _longest_common(expected, predicted), (len(expected), len(predicted))
    else:
        counts = Counter(_ngrams(expected, kind)), Counter(_ngrams(predicted, kind))
        common, sizes = (counts[0] & counts[1]).total(), [count.total() for count in counts]
    return 2 * common / sum(sizes) if common else 0.0


def _longest_common(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence: row by row, the best of what came before."""
    row = [0] * (len(second) + 1)
    for token in first:
        above, row = row, [0]
        for i, other in enumerate(second):
            row.append(above[i] + 1 if token == other else max(above[i + 1], row[i]))
    return row[-1]


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    if n < 1:
        raise ValueError(f"n must be at least 1; received n={n}.")
    return list(zip(*(itertools.islice(words, i, None) for i in range(n)), strict=False))


def _repeated(grams: list[tuple[str, ...]]) -> float:
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
