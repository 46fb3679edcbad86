"""Writing texts with a model, whole or a token at a time (article section 3.2, step 3)."""

import functools
import inspect
import time
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import ops, tree

from companion.decoding import Decoder, compiled
from companion.prompts import make_task
from companion.search import advance, first_state
from companion.tokenizer import Tokenizer

LOOK = 8  # tokens written between two looks for stop strings
GLANCE = 0.05  # seconds: a stream writes as many tokens ahead as nobody notices

Prompts = str | Sequence[str] | Sequence[Sequence[int]] | np.ndarray


def generate(
    model: keras.Model,
    prompts: Prompts,
    max_length: int = 64,
    strategy: str = "greedy",
    beam_size: int = 4,
    length_penalty: float = 1.0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    begin_id: int | None = None,
    end_id: int | Sequence[int] | None = None,
    padding_id: int | None = None,
    suppress_ids: Sequence[int] | None = None,
    stop_strings: Sequence[str] = (),
    tokenizer: Tokenizer | None = None,
    seed: int | None = None,
    use_cache: bool = True,
) -> np.ndarray:
    """Continue prompts, or write a target for each source.

    The loop over positions is compiled once and kept with the model: other prompts of about the same length,
    another max_length, temperature, seed and so on find it there. It is compiled again for another number of
    prompts, strategy, beam_size or top_k, when top_p, min_p or repetition_penalty are used for the first
    time, and when prompt and target together pass a multiple of 32 tokens.

    Args:
        model: Decoder-only, functional from tokens (B, T) int to logits (B, T, V), which continues prompts;
            or an encoder-decoder, from a source (B, S) and a target (B, T) to logits, whose sources the
            prompts are. What a cache needs is told by `Decoder`; use_cache=False needs none of it.
        prompts: (B, P) int array, padded on the right; or B lists of ids of any lengths, taken as they are;
            or, with a tokenizer, B strings or one. A decoder-only model continues an empty prompt from
            begin_id.
        max_length: Most tokens to write, >= 1. The positions of a decoder-only model must suffice for prompt
            and target.
        strategy: "greedy" takes the likeliest token; "sample" draws one; "beam" searches for a likely target.
        beam_size: Targets K that beam search extends at a time, 1 <= K <= V.
        length_penalty: Exponent a of beam search's score, log p / length^a, -10 <= a <= 10; 0 compares log p.
        temperature: Sampling divides the scores by it, 1e-30 to 1e30.
        top_k: Sample only among the k likeliest tokens.
        top_p: Of these, only among the fewest whose probabilities reach p, 0 < p <= 1.
        min_p: Of these, only among those at least min_p times as likely as the likeliest, 0 <= min_p <= 1.
        repetition_penalty: First of all, the scores of tokens that the target or its prompt holds are divided
            by it if positive, multiplied if negative; > 0, and 1 changes nothing. Scores are logits, or in
            beam search log-probabilities.
        begin_id, padding_id: Ids that begin targets and fill them up after their ends; the tokenizer's if not
            given, or else 2 and 0.
        end_id: The id that ends a target, or several, or () for none; the tokenizer's if not given, or else
            3.
        suppress_ids: Ids that are never written; if not given, padding_id and begin_id, unless they end
            targets.
        stop_strings: A target also ends with the token that completes one of these in its text.
        tokenizer: Gives the ids above, and is needed for strings.
        seed: Makes sampling reproducible; None draws a new one.
        use_cache: Compute only the new position at each step: the same tokens, sooner.
    Returns:
        (B, L) int32, L <= max_length: what was written, prompts left out, ends included, then padding.
    Raises:
        ValueError: an argument out of its range, or use_cache with a model that has no `DecoderBlock`.
    Source: top-k: Fan et al. 2018, section 5.4; top-p: Holtzman et al. 2020, section 3.1; min-p: Nguyen et
    al. 2024, section 3; repetition penalty: Keskar et al. 2019, section 4.1, who divide negative scores, too;
    beam search: Sutskever et al. 2014, section 3.2. Its score and its end are those of the library
    transformers with early_stopping=False: a source is done when the best unfinished target scores no better
    than the worst of the K best finished ones.
    """
    writer = _Writer(**locals())
    while not writer.done:
        writer.write(LOOK if stop_strings else max_length)
    return writer.tokens


def stream(model: keras.Model, prompts: Prompts, **settings) -> Iterator[np.ndarray] | Iterator[str]:
    """Write as `generate` does, and give each token away as soon as it is there.

    Args:
        model, prompts, settings: As for `generate`, but the strategy "beam".
    Returns:
        An iterator. For a single string as prompt it gives pieces of text, which joined are the whole,
        decoded; a character waits until all its bytes are there. For other prompts it gives what `generate`
        returns column by column: (B,) int32.
    Raises:
        ValueError: as `generate`, and for strategy="beam", which may change every token until its end.
    """
    call = inspect.signature(generate).bind(model, prompts, **settings)
    call.apply_defaults()
    writer = _Writer(**call.arguments)
    if call.arguments["strategy"] == "beam":
        raise ValueError("strategy must be greedy or sample in a stream; received strategy='beam'.")
    columns = _columns(writer)
    return text_pieces(columns, call.arguments["tokenizer"]) if isinstance(prompts, str) else columns


def _columns(writer):
    count = 1
    while not writer.done:
        started, start = time.perf_counter(), writer.tokens.shape[1]
        writer.write(count)
        yield from writer.tokens[:, start:].T
        count = round(min(max(1, count * GLANCE / (time.perf_counter() - started)), 2 * count))


def text_pieces(columns: Iterator[np.ndarray], tokenizer) -> Iterator[str]:
    """The text of one row's tokens, (1,) int each, in pieces that joined are what the tokenizer decodes.

    A character waits until all its bytes are there; no piece is empty.
    """
    ids, shown = [], ""
    for (token,) in columns:
        ids.append(token)
        text = tokenizer.decode(ids).rstrip("\ufffd")  # of a character, whose other bytes may follow
        if text.startswith(shown) and text != shown:
            yield text[len(shown) :]
            shown = text
    if whole := tokenizer.decode(ids)[len(shown) :]:
        yield whole


class _Writer:
    """A generation on its way: `tokens` are those written so far, `done` says whether they are all."""

    def __init__(self, model, prompts, **settings):
        kept = model.__dict__.setdefault("_generation", {})
        decoder = kept["decoder"] = kept.get("decoder") or Decoder(model)
        self.task = make_task(decoder, prompts, settings)
        self.max_length, self.tokenizer = settings["max_length"], settings["tokenizer"]
        self.stop_strings = settings["stop_strings"]
        num_rows = len(self.task.targets)
        self.tokens, self.count, self.done = np.zeros((num_rows, 0), "int32"), 0, num_rows == 0
        self.stops = np.full(num_rows, self.max_length)  # where rows end by a stop string
        if num_rows:
            self._read(*_loops(kept, decoder, self.task, settings["use_cache"]))

    def _read(self, start, advance):
        task = self.task
        memory, caches = start(*_tensors((task.sources, task.targets[:, : task.prompt_width])))
        prompts = np.min(task.given["lengths"]), task.targets, task.seen
        self.state = first_state(task.search, *_tensors(prompts), caches)
        self.advance = functools.partial(advance, memory, _tensors(task.given))

    def write(self, count):
        """Write up to `count` more tokens in each row."""
        task, lengths, known = self.task, self.task.given["lengths"], self.count
        self.count = min(known + count, self.max_length)
        self.state = self.advance(self.state, _tensors(np.int32(lengths.max() + self.count)))
        targets = ops.convert_to_numpy(self.state[1])
        targets = targets[:, 0] if targets.ndim == 3 else targets  # of the beams the best
        targets = np.take_along_axis(targets, lengths[:, None] + np.arange(self.count), axis=1)
        ends = np.isin(targets, task.ends)
        counts = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, self.count)
        self._look_for_stops(targets, counts, known)
        counts = np.minimum(counts, self.stops)
        ended = ends.any(axis=1) | (self.stops < self.max_length)
        self.done = self.count == self.max_length or ended.all()
        targets = np.where(np.arange(self.count) < counts[:, None], targets, task.given["padding_id"])
        self.tokens = targets[:, : counts.max()]

    def _look_for_stops(self, targets, counts, known):
        def stops(ids):
            text = self.tokenizer.decode(ids)
            return any(string in text for string in self.stop_strings)

        for i in np.flatnonzero(self.stops == self.max_length) if self.stop_strings else ():
            if stops(targets[i, : counts[i]]):
                self.stops[i] = next(n for n in range(known + 1, counts[i] + 1) if stops(targets[i, :n]))


def _tensors(structure):
    return tree.map_structure(ops.convert_to_tensor, structure)


def _loops(kept, decoder, task, use_cache):
    """The two halves of a generation, compiled: to read the prompts, and to write on."""
    variables = tuple(map(id, decoder.model.variables))  # adapters may have come or gone
    fixed = (
        (_start, use_cache, task.search.num_beams, task.cache_length),
        (_advance, use_cache, task.search),
    )
    for function, *arguments in fixed:
        if (key := (variables, function, *arguments)) not in kept:
            fused = use_cache and function is _advance
            kept[key] = compiled(decoder.model, functools.partial(function, decoder, *arguments), fused)
    return [kept[variables, *key] for key in fixed]


def _start(decoder, use_cache, num_beams, cache_length, sources, prompts):
    """What all steps read, and the caches after the prompts, for each beam."""
    if not use_cache:
        return [ops.repeat(x, num_beams, axis=0) for x in sources], ()
    memory, caches = decoder.read(sources), decoder.start(prompts.shape[0], cache_length)
    if prompts.shape[1] > 1:  # the last token of a prompt is read again, for what follows it
        caches = decoder.fill(prompts, memory, caches)
    caches = tree.map_structure(lambda x: ops.repeat(x, num_beams, axis=0), caches)
    return decoder.repeated(memory, num_beams), caches


def _advance(decoder, use_cache, search, memory, given, state, until):
    def cached(tokens, position, caches):
        last = ops.slice(tokens, (0, position - 1), (tokens.shape[0], 1))
        logits, caches = decoder.step(last, position - 1, memory, caches)
        return logits[:, 0], caches

    def uncached(tokens, position, caches):
        length = min(tokens.shape[1], decoder.limits(decoder.target)[1])
        logits = decoder.whole(memory, tokens[:, :length])
        return ops.take(logits, position - 1, axis=1), caches

    return advance(search, cached if use_cache else uncached, given, state, until)
