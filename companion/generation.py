"""Writing a target one token at a time: greedy, sampling and beam search (article section 3.2, step 3)."""

import functools
from typing import NamedTuple

import keras
import numpy as np
from keras import ops, tree

from companion.attention import padding_mask
from companion.decoder import DecoderBlock

STRATEGIES = ("greedy", "sample", "beam")


class _Settings(NamedTuple):
    """What the compiled loop is made for; hashable."""

    begin_id: int
    end_id: int
    max_length: int
    strategy: str
    num_beams: int
    top_k: int | None
    use_cache: bool


def generate(
    model: keras.Model,
    source_tokens,
    begin_id: int = 2,
    end_id: int = 3,
    max_length: int = 64,
    strategy: str = "greedy",
    beam_size: int = 4,
    length_penalty: float = 0.6,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    use_cache: bool = True,
) -> np.ndarray:
    """Write a target for each source.

    The loop is compiled once, and again only for a new shape of source_tokens, a new top_k or other new
    settings; not for a new temperature, top_p, length_penalty or seed.

    Args:
        model: From `transformer`, or (with use_cache=False) any functional model from
            {"source_tokens", "target_tokens"} to logits (B, T, V).
        source_tokens: (B, S) int, ids of the source vocabulary, padded with 0.
        begin_id, end_id: Ids that begin a target and end it.
        max_length: Most tokens to write, 1 <= max_length <= the model's own max_length.
        strategy: "greedy" takes the likeliest token; "sample" draws one; "beam" keeps the beam_size likeliest
            targets.
        beam_size: Targets kept by beam search, 1 <= beam_size <= V.
        length_penalty: Exponent a of beam search's score, log p / ((5 + length) / 6)^a, -10 <= a <= 10;
            0 compares log p.
        temperature: Sampling divides the logits by it, 1e-30 to 1e30.
        top_k: Sample only among the k likeliest tokens.
        top_p: Sample only among the fewest tokens whose probabilities reach p, 0 < p <= 1.
        seed: Makes sampling reproducible; None draws a new one.
        use_cache: Compute only the new position at each step: the same tokens, sooner.
    Returns:
        (B, L) int32, L <= max_length: the targets without begin_id, with end_id, then padding 0. Neither
        padding nor begin_id is ever written before end_id.
    Raises:
        ValueError: an argument out of its range, or use_cache with a model that is not from `transformer`.
    Source: top-k: Fan et al. 2018, section 5.4; top-p: Holtzman et al. 2020, section 3.1; beam score: Wu et
    al. 2016, section 7. Differs: unfinished targets are ranked by the same penalized score as finished ones.
    """
    source_tokens = np.asarray(source_tokens)
    _check(
        model,
        source_tokens,
        begin_id=begin_id,
        end_id=end_id,
        max_length=max_length,
        strategy=strategy,
        beam_size=beam_size,
        length_penalty=length_penalty,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        use_cache=use_cache,
    )
    num_beams = beam_size if strategy == "beam" else 1
    write = _compiled(model, _Settings(begin_id, end_id, max_length, strategy, num_beams, top_k, use_cache))
    uniforms = np.random.default_rng(seed).random((max_length, len(source_tokens)), dtype="float32")
    top_p = 1.0 if top_p is None else top_p
    numbers = np.float32([length_penalty, temperature, top_p])
    tokens = ops.convert_to_numpy(write(source_tokens.astype("int32"), uniforms, numbers))
    length = np.max(np.nonzero(tokens.any(axis=0))[0], initial=0)
    return tokens[:, 1 : length + 1]


def _check(model, source_tokens, **settings):
    _check_source(_layer(model, "source_embedding"), source_tokens)
    rules = _rules_of_targets(model, settings) | _rules_of_choices(model.output.shape[-1])
    for name, (expectation, holds) in rules.items():
        if not holds(settings[name]):
            raise ValueError(f"{name} must {expectation}; received {name}={settings[name]!r}.")


def _check_source(embedding, tokens):
    if tokens.ndim != 2:
        raise ValueError(f"source_tokens must have shape (batch, length); received shape {tokens.shape}.")
    size = getattr(embedding, "vocabulary_size", getattr(embedding, "input_dim", np.inf))  # ours or Keras's
    if tokens.size and not (tokens.dtype.kind in "iu" and 0 <= tokens.min() and tokens.max() < size):
        span = f"{tokens.dtype} {tokens.min()} to {tokens.max()}"
        raise ValueError(f"source_tokens must be ints in [0, {size}); received {span}.")


def _rules_of_targets(model, settings):
    """What each setting must be, in words and as a condition: ids, length, cache."""
    last, begin = model.output.shape[-1] - 1, settings["begin_id"]
    limit = getattr(_layer(model, "target_embedding"), "max_length", np.inf)
    no_cache = "be False for a model without decoder blocks"
    return {
        "begin_id": (f"be from 1 to {last}", lambda x: 1 <= x <= last),
        "end_id": (f"be from 1 to {last} and not begin_id", lambda x: 1 <= x <= last and x != begin),
        "max_length": (f"be from 1 to the model's own max_length, {limit}", lambda x: 1 <= x <= limit),
        "use_cache": (no_cache, lambda x: not x or _decoder_blocks(model)),
    }


def _rules_of_choices(vocabulary_size):
    in_vocabulary = f"from 1 to the vocabulary size, {vocabulary_size}"
    return {
        "strategy": (f"be one of {', '.join(STRATEGIES)}", lambda x: x in STRATEGIES),
        "beam_size": (f"be {in_vocabulary}", lambda x: 1 <= x <= vocabulary_size),
        "length_penalty": ("be from -10 to 10", lambda x: -10 <= x <= 10),  # more would overflow
        "temperature": ("be from 1e-30 to 1e30", lambda x: 1e-30 <= x <= 1e30),
        "top_k": (f"be None or {in_vocabulary}", lambda x: x is None or 1 <= x <= vocabulary_size),
        "top_p": ("be None, or above 0 and at most 1", lambda x: x is None or 0 < x <= 1),
    }


def _compiled(model, settings):
    """The loop for these settings, compiled for the backend and kept with the model."""
    loops = model.__dict__.setdefault("_generation_loops", {})
    if settings not in loops:
        loops[settings] = _compile(model, functools.partial(_write, model, settings))
    return loops[settings]


def _compile(model, function):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if keras.backend.backend() == "jax":
        import jax

        @jax.jit  # weights are arguments, or the compiled code would keep the old ones
        def stateless(values, *arguments):
            with keras.StatelessScope(state_mapping=zip(model.variables, values, strict=True)):
                return function(*arguments)

        return lambda *arguments: stateless([variable.value for variable in model.variables], *arguments)
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()(function)
    return function


def _write(model, settings, source_tokens, uniforms, numbers):
    """(B, 1 + max_length) int32, begin_id first."""
    source_tokens, uniforms, numbers = map(ops.convert_to_tensor, (source_tokens, uniforms, numbers))
    length_penalty, temperature, top_p = numbers[0], numbers[1], numbers[2]
    next_logits, state = (_cached if settings.use_cache else _uncached)(model, settings, source_tokens)
    forbidden = np.isin(np.arange(model.output.shape[-1]), [0, settings.begin_id])

    def next_log_probabilities(tokens, position, state):
        logits, state = next_logits(tokens, position, state)
        return ops.log_softmax(ops.where(forbidden, -np.inf, ops.cast(logits, "float32"))), state

    rows = ops.shape(source_tokens)[0] * settings.num_beams
    start = ops.full((rows, 1), settings.begin_id, dtype="int32")
    tokens = ops.concatenate([start, ops.zeros((rows, settings.max_length), dtype="int32")], axis=1)
    if settings.strategy == "beam":
        return _beam_search(settings, next_log_probabilities, tokens, state, length_penalty)

    def choose(scores, position):
        if settings.strategy == "greedy":
            return ops.argmax(scores, axis=-1)
        return _draw(scores / temperature, uniforms[position], settings.top_k, top_p)

    return _token_by_token(settings, next_log_probabilities, choose, tokens, state)


def _token_by_token(settings, next_log_probabilities, choose, tokens, state):
    def extend(position, tokens, finished, state):
        scores, state = next_log_probabilities(tokens, position, state)
        chosen = ops.where(finished, 0, ops.cast(choose(scores, position), "int32"))
        tokens = ops.slice_update(tokens, (0, position + 1), chosen[:, None])
        return position + 1, tokens, ops.logical_or(finished, chosen == settings.end_id), state

    finished = ops.zeros_like(tokens[:, 0], dtype="bool")
    start = ops.convert_to_tensor(0), tokens, finished, state
    return ops.while_loop(_unfinished(settings), extend, start)[1]


def _draw(scores, uniform, top_k, top_p):
    """Invert the cumulative distribution, likeliest token first: (B, V) scores, (B,) uniforms to (B,) ids."""
    order = ops.flip(ops.argsort(scores, axis=-1), axis=-1)
    probabilities = ops.softmax(ops.take_along_axis(scores, order, axis=-1))
    kept = ops.cumsum(probabilities, axis=-1) - probabilities < top_p
    if top_k is not None:
        kept = ops.logical_and(kept, ops.arange(scores.shape[-1]) < top_k)
    cumulative = ops.cumsum(ops.where(kept, probabilities, 0.0), axis=-1)
    rank = ops.sum(ops.cast(cumulative <= uniform[:, None] * cumulative[:, -1:], "int32"), axis=-1)
    rank = ops.minimum(rank, ops.sum(ops.cast(kept, "int32"), axis=-1) - 1)
    return ops.take_along_axis(order, rank[:, None], axis=-1)[:, 0]


def _beam_search(settings, next_log_probabilities, tokens, state, length_penalty):
    def extend(position, tokens, finished, totals, lengths, state):
        scores, state = next_log_probabilities(tokens, position, state)
        only_padding = ops.where(np.arange(scores.shape[-1]) == 0, 0.0, -1e9)
        totals = totals[:, None] + ops.where(finished[:, None], only_padding, scores)
        lengths = lengths + ops.cast(ops.logical_not(finished), "float32")
        ranking = totals / ((5.0 + lengths[:, None]) / 6.0) ** length_penalty
        rows, chosen = _best(ranking, settings.num_beams)
        tokens, finished, totals, lengths, state = tree.map_structure(
            lambda x: ops.take(x, rows, axis=0), (tokens, finished, totals, lengths, state)
        )
        tokens = ops.slice_update(tokens, (0, position + 1), chosen[:, None])
        totals = ops.take_along_axis(totals, chosen[:, None], axis=1)[:, 0]
        finished = ops.logical_or(finished, chosen == settings.end_id)
        return position + 1, tokens, finished, totals, lengths, state

    first_beam = ops.arange(ops.shape(tokens)[0]) % settings.num_beams == 0
    totals = ops.where(first_beam, 0.0, -1e9)  # all beams start alike: only one of them may be extended
    position, finished, lengths = ops.convert_to_tensor(0), ops.zeros_like(first_beam), ops.zeros_like(totals)
    start = position, tokens, finished, totals, lengths, state
    tokens = ops.while_loop(_unfinished(settings), extend, start)[1]
    return tokens[:: settings.num_beams]


def _best(ranking, num_beams):
    """(B * beams, V) scores to the rows to go on with and the tokens to write, (B * beams,) int each."""
    batch_size, vocabulary_size = ops.shape(ranking)[0] // num_beams, ranking.shape[-1]
    ranking = ops.reshape(ranking, (batch_size, num_beams * vocabulary_size))
    best = ops.cast(ops.top_k(ranking, num_beams)[1], "int32")
    rows = ops.arange(batch_size)[:, None] * num_beams + best // vocabulary_size
    return ops.reshape(rows, (-1,)), ops.reshape(best % vocabulary_size, (-1,))


def _unfinished(settings):
    def unfinished(position, tokens, finished, *_):
        return ops.logical_and(position < settings.max_length, ops.logical_not(ops.all(finished)))

    return unfinished


def _uncached(model, settings, source_tokens):
    """A function from tokens to the logits after `position` that runs the whole model."""
    source_tokens = ops.repeat(source_tokens, settings.num_beams, axis=0)

    def next_logits(tokens, position, state):
        inputs = {"source_tokens": source_tokens, "target_tokens": tokens[:, :-1]}
        return ops.take(model(inputs, training=False), position, axis=1), state

    return next_logits, ()


def _cached(model, settings, source_tokens):
    """The same function, running the decoder at one position only; its state is the blocks' caches."""
    encoder = keras.Model(model.inputs[0], model.get_layer("encoder_norm").output)
    embedding, norm, head = map(model.get_layer, ("target_embedding", "decoder_norm", "logits"))
    blocks = _decoder_blocks(model)
    source = encoder(source_tokens, training=False)
    fixed = [block.project_source(source) for block in blocks], padding_mask(source_tokens)
    source_pairs, source_mask = tree.map_structure(lambda x: ops.repeat(x, settings.num_beams, axis=0), fixed)

    def next_logits(tokens, position, caches):
        newest = ops.slice(tokens, (0, position), (ops.shape(tokens)[0], 1))
        x = embedding(newest, start=position)
        new_caches = []
        for block, cache, source_pair in zip(blocks, caches, source_pairs, strict=True):
            x, cache = block.step(x, cache, position, source_pair, source_mask)
            new_caches.append(cache)
        return head(norm(x))[:, 0], tuple(new_caches)

    rows = ops.shape(source_tokens)[0] * settings.num_beams
    return next_logits, tuple(block.start_cache(rows, settings.max_length) for block in blocks)


def _decoder_blocks(model):
    return [layer for layer in model.layers if isinstance(layer, DecoderBlock)]


def _layer(model, name):
    return next((layer for layer in model.layers if layer.name == name), None)
