"""What a language model is asked to find: masked tokens (BERT), or whole spans of them (T5)."""

from collections.abc import Collection, Sequence
from itertools import chain

import numpy as np

from companion.base import check_at_least


def masked_per_row(length: int, share: float = 0.15) -> int:
    """How many tokens of a row `mask_tokens` chooses: `labels_per_row` of a `Pretrainer`."""
    _check_share(share)
    return max(1, round(share * length))


def mask_tokens(
    tokens: np.ndarray,
    vocabulary_size: int,
    mask_id: int,
    special_ids: Collection[int],
    rng: np.random.Generator,
    share: float = 0.15,
) -> tuple[np.ndarray, np.ndarray]:
    """Hides some tokens of each row, which the model is to find again.

    Of the chosen ones, 80 % become mask_id, 10 % another token at random, and 10 % stay.

    Args:
        tokens: (B, T) int.
        vocabulary_size: Number of token ids V.
        mask_id: The id of the mask.
        special_ids: Ids never chosen and never put in, such as padding and ends; mask_id is one of them.
        rng: Draws them.
        share: Part of the positions chosen, 0 < share < 1: exactly `masked_per_row` in each row, or all that
            are not special if there are fewer.
    Returns:
        tokens: (B, T) int, what the model reads.
        weights: (B, T) float32, 1 at the chosen positions, 0 elsewhere.
    Raises:
        ValueError: share out of its range, an id that is not in the vocabulary, or only special ids.
    Source: Devlin et al. 2019, section 3.1 and appendix A.1. Differs: the number chosen is exact.
    """
    special = np.unique([*special_ids, mask_id])
    if special[0] < 0 or special[-1] >= vocabulary_size or len(special) == vocabulary_size:
        raise ValueError(
            f"special_ids and mask_id must be some of the {vocabulary_size} token ids; received "
            f"special_ids={sorted(special_ids)}, mask_id={mask_id}."
        )
    count = masked_per_row(tokens.shape[1], share)
    ranks = np.where(np.isin(tokens, special), 1.0, rng.random(tokens.shape))  # the draws are all below 1
    limit = np.partition(ranks, count - 1)[:, count - 1 : count]
    chosen = (ranks <= limit) & (ranks < 1)
    ordinary = np.setdiff1d(np.arange(vocabulary_size), special)
    action = rng.random(tokens.shape)
    hidden = np.where(
        action < 0.8, mask_id, np.where(action < 0.9, rng.choice(ordinary, tokens.shape), tokens)
    )
    return np.where(chosen, hidden, tokens).astype(np.int32), chosen.astype(np.float32)


def span_counts(length: int, share: float = 0.15, mean_length: float = 3.0) -> tuple[int, int]:
    """How many tokens of a text `span_corruption` takes out, and in how many spans.

    Args:
        length: Tokens of the text, >= 2.
        share: Part of the tokens taken out, 0 < share < 1.
        mean_length: Mean length of a span, >= 1.
    Returns:
        The number of tokens and the number of spans: the source has length - tokens + spans, the target
        tokens + spans.
    Raises:
        ValueError: a number out of its range.
    """
    check_at_least(2, length=length)
    check_at_least(1, mean_length=mean_length)
    _check_share(share)
    removed = min(max(round(share * length), 1), length - 1)
    spans = min(max(round(removed / mean_length), 1), removed, length - removed)
    return removed, spans


def span_corruption(
    tokens: np.ndarray,
    sentinels: Sequence[int],
    rng: np.random.Generator,
    share: float = 0.15,
    mean_length: float = 3.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Takes spans out of a text: the source has a sentinel in place of each, the target says what they were.

    Args:
        tokens: (L,) int.
        sentinels: Ids that stand for the spans, in this order, not among tokens: in T5 the last ones of the
            vocabulary, from the end.
        rng: Draws the spans.
        share, mean_length: see `span_counts`.
    Returns:
        source: (S,) int32, the kept tokens and the sentinels.
        target: (T,) int32, each sentinel followed by its span.
    Raises:
        ValueError: a sentinel among the tokens, fewer sentinels than spans, or as `span_counts`.
    Source: Raffel et al. 2020, sections 3.1.4 and 3.3.4. As in their code, kept and removed stretches take
    turns, beginning with a kept one, and no closing sentinel ends the target.
    """
    tokens = np.asarray(tokens, np.int32)
    removed, spans = span_counts(len(tokens), share, mean_length)
    if len(sentinels) < spans or np.isin(tokens, sentinels).any():
        raise ValueError(
            f"sentinels must be {spans} or more ids that are not among the tokens; received "
            f"{len(sentinels)}, {np.isin(tokens, sentinels).sum()} of them found there."
        )
    kept_lengths, span_lengths = _cut(len(tokens) - removed, spans, rng), _cut(removed, spans, rng)
    ends = np.cumsum(np.stack([kept_lengths, span_lengths], axis=1).ravel())[:-1]
    stretches = np.split(tokens, ends)
    marks = [np.array([sentinel], np.int32) for sentinel in sentinels[:spans]]
    source = chain.from_iterable(zip(stretches[::2], marks, strict=True))
    target = chain.from_iterable(zip(marks, stretches[1::2], strict=True))
    return np.concatenate(list(source)), np.concatenate(list(target))


def restore_spans(source: Sequence[int], target: Sequence[int], sentinels: Sequence[int]) -> np.ndarray:
    """Puts the spans of a target back into its source: undoes `span_corruption`.

    Args:
        source, target: From `span_corruption`; the target may be one that a model wrote.
        sentinels: As there.
    Returns:
        (L,) int32. A sentinel that the target does not name leaves nothing; what the target says before its
        first sentinel is left out.
    """
    spans, marks = {}, set(map(int, sentinels))
    current = []
    for token in map(int, target):
        if token in marks:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    restored = chain.from_iterable(spans.get(t, ()) if t in marks else (t,) for t in map(int, source))
    return np.fromiter(restored, np.int32)


def _cut(total, parts, rng):
    """Lengths of parts, each 1 or more, every way to cut being as likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def _check_share(share):
    if not 0 < share < 1:
        raise ValueError(f"share must be above 0 and below 1; received share={share}.")
