"""What a generation is asked for: prompts and settings, checked, as arrays."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from companion.decoding import Decoder
from companion.search import Search

STRATEGIES = ("greedy", "sample", "beam")
STRIDE = 32  # lengths are rounded up to multiples of it: one compiled loop serves many of them


class Task(NamedTuple):
    """A generation for B prompts.

    search: What the loop is compiled for.
    sources: One (B, S) int32 for an encoder-decoder; none for a decoder-only model.
    targets: (B, L) int32, what begins the targets, padded to as much as may be written.
    prompt_width: How many positions may belong to prompts.
    cache_length: How many the model may read, at most L.
    seen: (B, V) bool, tokens of the prompts, which a repetition penalty counts.
    ends: Ids that end a target.
    given: See `Search`.
    """

    search: Search
    sources: list[np.ndarray]
    targets: np.ndarray
    prompt_width: int
    cache_length: int
    seen: np.ndarray
    ends: list[int]
    given: dict[str, np.ndarray]


def make_task(decoder: Decoder, prompts: Any, settings: Mapping[str, Any]) -> Task:
    """Check what `generate` was given, and make it arrays.

    Args:
        decoder: The model.
        prompts: See `generate`.
        settings: Its other arguments.
    Raises:
        ValueError: as `generate`.
    """
    settings = {**settings, **_special_ids(settings)}
    begin_id, padding_id, size = settings["begin_id"], settings["padding_id"], decoder.vocabulary_size
    rows, sources = _prompt_rows(prompts, settings["tokenizer"], padding_id), []
    limits = decoder.limits(decoder.prompt)
    _check_prompts(rows, *limits)
    if decoder.prompt is not decoder.target:
        sources, rows = (
            [_padded(rows, min(_rounded(_longest(rows)), limits[1]), padding_id)],
            [()] * len(rows),
        )
    rows = [row if len(row) else [begin_id] for row in rows]
    longest, limit = _longest(rows), decoder.limits(decoder.target)[1]
    _check_settings(settings, decoder, limit + 1 - longest)
    targets = _padded(rows, min(_rounded(longest + settings["max_length"]), limit + 1), padding_id)
    lengths = np.array([len(row) for row in rows], "int32")
    return Task(
        _search(settings, size),
        sources,
        targets,
        prompt_width=1 if sources else min(_rounded(longest), limit),
        cache_length=min(targets.shape[1], limit),
        seen=_members(rows, size),
        ends=settings["end_id"],
        given=_given(settings, size, lengths, targets.shape[1]),
    )


def _special_ids(settings):
    """The ids that begin, end and pad, as given, or the tokenizer's, or 2, 3 and 0; and those suppressed."""

    def known(name, default):
        return getattr(settings["tokenizer"], name, default) if settings[name] is None else settings[name]

    begin_id, end_id, padding_id = known("begin_id", 2), known("end_id", 3), known("padding_id", 0)
    ends = [] if end_id is None else np.atleast_1d(end_id).tolist()
    suppressed = settings["suppress_ids"]
    suppressed = {begin_id, padding_id}.difference(ends) if suppressed is None else suppressed
    return {"begin_id": begin_id, "end_id": ends, "padding_id": padding_id, "suppress_ids": list(suppressed)}


def _prompt_rows(prompts, tokenizer, padding_id):
    """One array of ids for each prompt."""
    if isinstance(prompts, str):
        prompts = [prompts]
    if not isinstance(prompts, (list, tuple)):
        return [_without_padding(row, padding_id) for row in np.asarray(prompts)]
    if tokenizer is None and any(isinstance(prompt, str) for prompt in prompts):
        raise ValueError("tokenizer must be given for prompts that are strings; received None.")
    return [np.asarray(tokenizer.encode(prompt) if isinstance(prompt, str) else prompt) for prompt in prompts]


def _without_padding(row, padding_id):
    real = np.flatnonzero(row != padding_id)
    return row[: np.max(real, initial=-1) + 1] if row.ndim == 1 else row


def _check_prompts(rows, vocabulary_size, max_length):
    for row in rows:
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            received = f"{row.dtype} of shape {row.shape}"
            raise ValueError(
                f"prompts must be rows of ints, one for each prompt; received a row of {received}."
            )
        if row.size and not 0 <= row.min() <= row.max() < vocabulary_size:
            span = f"{row.min()} to {row.max()}"
            raise ValueError(f"prompts must hold ids in [0, {vocabulary_size}); received {span}.")
        if len(row) > max_length:
            raise ValueError(f"prompts must have at most {max_length} tokens; received one of {len(row)}.")


def _check_settings(settings, decoder, room):
    last = decoder.vocabulary_size - 1
    rules = _rules_of_ids(last) | _rules_of_choices(last + 1) | _rules_of_lengths(settings, decoder, room)
    for name, (expectation, holds) in rules.items():
        if not holds(settings[name]):
            raise ValueError(f"{name} must {expectation}; received {name}={settings[name]!r}.")


def _whole(low: float, high: float) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, Integral) and low <= x <= high


def _rules_of_ids(last):
    """What each setting must be, in words and as a condition."""
    is_id = _whole(0, last)
    return {
        "begin_id": (f"be from 0 to {last}", is_id),
        "padding_id": (f"be from 0 to {last}", is_id),
        "end_id": (f"be from 0 to {last}", lambda ids: all(map(is_id, ids))),
        "suppress_ids": (
            f"be from 0 to {last}, but not all of them",
            lambda ids: all(map(is_id, ids)) and len(set(ids)) <= last,
        ),
    }


def _rules_of_lengths(settings, decoder, room):
    own = (
        "at least 1"
        if room == np.inf
        else f"from 1 to {room}, what prompts leave of the model's own max_length"
    )
    needs = "be a list of strings, none empty, with a tokenizer, and not for beam search"
    possible = settings["tokenizer"] is not None and settings["strategy"] != "beam"
    return {
        "max_length": (f"be {own}", _whole(1, room)),
        "stop_strings": (
            needs,
            lambda x: not x or (possible and isinstance(x, Sequence) and not isinstance(x, str) and all(x)),
        ),
        "use_cache": ("be False for a model without decoder blocks", lambda x: not x or decoder.blocks),
    }


def _rules_of_choices(vocabulary_size):
    in_vocabulary = f"from 1 to the vocabulary size, {vocabulary_size}"
    counts = _whole(1, vocabulary_size)
    return {
        "strategy": (f"be one of {', '.join(STRATEGIES)}", lambda x: x in STRATEGIES),
        "beam_size": (f"be {in_vocabulary}", counts),
        "length_penalty": ("be from -10 to 10", lambda x: -10 <= x <= 10),  # more would overflow
        "temperature": ("be from 1e-30 to 1e30", lambda x: 1e-30 <= x <= 1e30),
        "top_k": (f"be None or {in_vocabulary}", lambda x: x is None or counts(x)),
        "top_p": ("be None, or above 0 and at most 1", lambda x: x is None or 0 < x <= 1),
        "min_p": ("be None, or from 0 to 1", lambda x: x is None or 0 <= x <= 1),
        "repetition_penalty": ("be above 0 and finite", lambda x: 0 < x < np.inf),
    }


def _search(settings, vocabulary_size):
    """What is compiled in; whatever the strategy does not need is left out, lest it be compiled anew."""
    beam, sample = settings["strategy"] == "beam", settings["strategy"] == "sample" and settings["top_k"] != 1
    num_beams = settings["beam_size"] if beam else 1
    candidates = num_beams * max(2, 1 + len(settings["end_id"]))  # so that K of them have not ended
    return Search(
        strategy="beam" if beam else "sample" if sample else "greedy",
        num_beams=num_beams,
        num_candidates=min(candidates, num_beams * vocabulary_size) if beam else 0,
        top_k=settings["top_k"] if sample else None,
        top_p=sample and settings["top_p"] not in (None, 1),
        min_p=sample and settings["min_p"] not in (None, 0),
        repetition_penalty=settings["repetition_penalty"] != 1,
    )


def _given(settings, vocabulary_size, lengths, width):
    max_length, ids = settings["max_length"], np.arange(vocabulary_size)
    draws = np.random.default_rng(settings["seed"]).random((max_length, len(lengths)), "float32")
    steps = np.clip(
        np.arange(width)[:, None] - lengths, 0, max_length - 1
    )  # a row's draws begin with its target
    numbers = ("temperature", "top_p", "min_p", "repetition_penalty", "length_penalty")
    return {
        "lengths": lengths,
        "limits": lengths + np.int32(max_length),
        "uniforms": np.take_along_axis(draws, steps, axis=0),
        "allowed": ~np.isin(ids, settings["suppress_ids"]),
        "ends": np.isin(ids, settings["end_id"]),
        "padding_id": np.int32(settings["padding_id"]),
    } | {name: np.float32(settings[name] or 0) for name in numbers}


def _longest(rows):
    return max(map(len, rows), default=1)


def _rounded(length):
    return -(-max(length, 1) // STRIDE) * STRIDE


def _members(rows, size):
    seen = np.zeros((len(rows), size), bool)
    for line, row in zip(seen, rows, strict=True):
        line[row] = True
    return seen


def _padded(rows, width, padding_id):
    padded = np.full((len(rows), width), padding_id, "int32")
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded
