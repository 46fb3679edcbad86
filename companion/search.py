"""Choosing tokens by their scores, one position after another: greedy, sampling and beam search."""

import functools
from typing import NamedTuple

import numpy as np
from keras import ops, tree


class Search(NamedTuple):
    """What a loop is compiled for; what may change from call to call is in the dictionary `given`.

    lengths, limits: (B,) int32, the positions where each row's prompt and its target end.
    uniforms: (L, B) float32 in [0, 1), what draws the token at each position.
    allowed, ends: (V,) bool, the tokens that may be written, and those that end a target.
    padding_id: () int32, written after the end.
    temperature, top_p, min_p, repetition_penalty, length_penalty: () float32.
    """

    strategy: str
    num_beams: int
    num_candidates: int
    top_k: int | None
    top_p: bool
    min_p: bool
    repetition_penalty: bool


def first_state(search, position, tokens, seen, caches):
    """The state of a search that has written nothing.

    Args:
        position: () int32, the first to write at, before which all rows have their prompts.
        tokens: (B, L) int32, the prompts, padded.
        seen: (B, V) bool, the tokens of the prompts.
        caches: A structure of tensors with B * num_beams rows.
    Returns:
        A tuple: position, tokens (for a beam search the best targets (B, K, L)), finished (B,) bool, and what
        the strategy needs.
    """
    finished = ops.zeros_like(tokens[:, 0], dtype="bool")
    seen = ops.repeat(seen, search.num_beams, axis=0) if search.repetition_penalty else ()
    if search.strategy != "beam":
        return position, tokens, finished, seen, caches
    beams = ops.repeat(tokens[:, None], search.num_beams, axis=1)
    impossible = ops.full(beams.shape[:2], -np.inf, "float32")
    totals = ops.where(ops.arange(search.num_beams) == 0, 0.0, impossible)  # or all beams would be the same
    return position, beams, finished, impossible, beams, totals, seen, caches


def advance(search, next_logits, given, state, until):
    """Write on until every row is finished, or before position `until`.

    Args:
        next_logits: From tokens (R, L), a position and caches to the logits (R, V) of the token at that
            position, given those before it, and the new caches.
        given: See `Search`.
        state: From `first_state` or an earlier call.
    Returns:
        The new state.
    """

    def unfinished(position, tokens, finished, *_):
        return ops.logical_and(position < until, ops.logical_not(ops.all(finished)))

    extend = _extend_beams if search.strategy == "beam" else _extend
    return ops.while_loop(unfinished, functools.partial(extend, search, next_logits, given), state)


def _extend(search, next_logits, given, position, tokens, finished, seen, caches):
    logits, caches = next_logits(tokens, position, caches)
    scores = _adjusted(search, given, ops.cast(logits, "float32"), seen)
    if search.strategy == "sample":
        chosen = _draw(search, given, scores, ops.take(given["uniforms"], position, axis=0))
    else:
        chosen = ops.argmax(scores, axis=-1)
    writes = position >= given["lengths"]
    chosen = ops.where(finished, given["padding_id"], ops.cast(chosen, "int32"))
    chosen = ops.where(writes, chosen, ops.take(tokens, position, axis=1))
    tokens = ops.slice_update(tokens, (0, position), chosen[:, None])
    ended = ops.logical_and(writes, ops.take(given["ends"], chosen))
    finished = finished | ended | (position + 1 >= given["limits"])
    return position + 1, tokens, finished, _noted(search, seen, chosen), caches


def _adjusted(search, given, scores, seen):
    """(R, V) scores after the repetition penalty, without what must not be written."""
    if search.repetition_penalty:
        penalty = given["repetition_penalty"]
        scores = ops.where(seen, ops.where(scores < 0, scores * penalty, scores / penalty), scores)
    return ops.where(given["allowed"], scores, -np.inf)


def _noted(search, seen, chosen):
    if not search.repetition_penalty:
        return seen
    return ops.logical_or(seen, ops.arange(seen.shape[1]) == chosen[:, None])


def _draw(search, given, scores, uniforms):
    """Invert the cumulative distribution: (R, V) scores, (R,) uniforms to (R,) tokens."""
    scores = (scores - ops.max(scores, axis=-1, keepdims=True)) / given["temperature"]
    if search.top_k:
        scores, tokens = ops.top_k(scores, search.top_k)
    probabilities = ops.softmax(scores, axis=-1)
    kept = probabilities > 0
    if search.top_p:
        kept = kept & (scores >= _nucleus(scores, probabilities, given["top_p"]))
    if search.min_p:
        kept = kept & (probabilities >= given["min_p"] * ops.max(probabilities, axis=-1, keepdims=True))
    cumulative = ops.cumsum(ops.where(kept, probabilities, 0.0), axis=-1)
    reached = cumulative > uniforms[:, None] * cumulative[:, -1:]
    # sums of many numbers are not quite monotonic: what is not kept must never be chosen
    chosen = ops.argmax(ops.where(kept, 1 + ops.cast(reached, "int32"), 0), axis=-1)
    return ops.take_along_axis(tokens, chosen[:, None], axis=1)[:, 0] if search.top_k else chosen


def _nucleus(scores, probabilities, top_p):
    """The least score, at most 0, to keep so as to reach top_p; halving finds it sooner than sorting."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        mass = ops.sum(ops.where(scores >= middle, probabilities, 0.0), axis=-1, keepdims=True)
        return ops.where(mass >= top_p, middle, low), ops.where(mass >= top_p, high, middle)

    high = ops.zeros_like(scores[:, :1])
    return ops.fori_loop(0, 32, halve, (high - 104, high))[0]  # exp(-104) is 0 in float32


def _extend_beams(search, next_logits, given, position, best, finished, scores, beams, totals, seen, caches):
    """One more token. `best` are the K best targets that have ended and `scores` theirs; `beams` go on."""
    logits, caches = next_logits(ops.reshape(beams, (-1, beams.shape[2])), position, caches)
    steps = _adjusted(search, given, ops.log_softmax(ops.cast(logits, "float32"), axis=-1), seen)
    steps = _prompt_or(steps, given, position, beams)
    totals, parents, chosen = _candidates(search, totals[:, :, None] + steps)
    longer = ops.slice_update(_taken(beams, parents), (0, 0, position), chosen[:, :, None])
    ended = ops.take(given["ends"], chosen) | (position + 1 >= given["limits"])[:, None]
    ended = ended & (position >= given["lengths"])[:, None]

    written = ops.maximum(position + 1 - given["lengths"], 1)[:, None]
    power = ops.cast(written, "float32") ** given["length_penalty"]
    counts = ended & (ops.arange(search.num_candidates) < search.num_beams) & ~finished[:, None]
    scores = ops.concatenate([scores, ops.where(counts, totals / power, -np.inf)], axis=1)
    scores, kept = ops.top_k(scores, search.num_beams)
    best = _taken(ops.concatenate([best, longer], axis=1), kept)

    totals, kept = ops.top_k(ops.where(ended, -np.inf, totals), search.num_beams)
    beams, chosen, parents = (_taken(x, kept) for x in (longer, chosen, parents))
    first_rows = ops.arange(beams.shape[0])[:, None] * search.num_beams
    rows = ops.reshape(first_rows + parents, (-1,))
    seen, caches = tree.map_structure(lambda x: ops.take(x, rows, axis=0), (seen, caches))
    seen = _noted(search, seen, ops.reshape(chosen, (-1,)))
    finished = finished | (totals[:, 0] / power[:, 0] <= scores[:, -1])
    return position + 1, best, finished, scores, beams, totals, seen, caches


def _prompt_or(steps, given, position, beams):
    """(B * K, V) log-probabilities as (B, K, V); within a prompt, its next token has all the probability."""
    prompt = ops.take(beams, position, axis=2)[:, :, None] == ops.arange(steps.shape[-1])
    inside = (position < given["lengths"])[:, None, None]
    steps = ops.reshape(steps, (*beams.shape[:2], steps.shape[-1]))
    return ops.where(inside, ops.where(prompt, 0.0, -np.inf), steps)


def _candidates(search, totals):
    """The best of (B, K, V) sums: their values, beams and tokens, (B, candidates) each."""
    batch_size, num_beams, vocabulary_size = totals.shape
    totals, places = ops.top_k(ops.reshape(totals, (batch_size, -1)), search.num_candidates)
    places = ops.cast(places, "int32")
    return totals, places // vocabulary_size, places % vocabulary_size


def _taken(x, places):
    """x[b, places[b, n]] for (B, K) or (B, K, L) x and (B, N) places."""
    return ops.take_along_axis(x, ops.reshape(places, (*places.shape, *[1] * (len(x.shape) - 2))), axis=1)
