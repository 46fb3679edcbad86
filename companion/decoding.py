"""A functional model as a decoder: its logits at one position after another, with a key/value cache."""

import inspect
import math

import keras
from keras import ops, tree

from companion.decoder import DecoderBlock
from companion.embedding import RelativePositionBias, TokenPositionEmbedding


class Decoder:
    """A model's graph, cut into what is computed once and what at each step; names of layers play no part.

    Args:
        model: Functional, from tokens (B, T) int, or from a source (B, S) and a target (B, T), to logits
            (B, T, V) that depend on no later token. For a cache, whatever reads the target must treat each
            position alone, except `DecoderBlock`, `RelativePositionBias` and `TokenPositionEmbedding`, and a
            block's attention_mask must be made of the target, (B, 1, T) as by `padding_mask`.
    Attributes:
        prompt, target: The model's inputs: the source and the target, or, decoder-only, the same one twice.
        blocks: The calls of decoder blocks, each of which has a cache of its own.
        vocabulary_size: Number of tokens V that the logits score.
    Raises:
        ValueError: the model has other inputs or outputs.
    """

    def __init__(self, model):
        inputs, outputs = (list(getattr(model, name, None) or []) for name in ("inputs", "outputs"))
        shapes = [tuple(x.shape) for x in outputs]
        if len(inputs) not in (1, 2) or list(map(len, shapes)) != [3]:
            raise ValueError(
                "model must be functional, from a target, or a source and a target, to logits (B, T, V); "
                f"received {len(inputs)} inputs and outputs of shapes {shapes}."
            )
        self.model, self.prompt, self.target, (self.logits,) = model, inputs[0], inputs[-1], outputs
        self.vocabulary_size = shapes[0][-1]
        self._once, self._steps, self._kept = _cut(_calls(inputs, self.logits), self.target)
        self.blocks = [call for call in self._steps if isinstance(call.operation, DecoderBlock)]
        self._own_masks = [_arguments(call).get("attention_mask") for call in self.blocks]
        self._masks = list({mask: None for mask in self._own_masks if isinstance(mask, keras.KerasTensor)})

    def limits(self, tensor):
        """The vocabulary size and the greatest length of what reads an input; infinity: no limit is known."""
        readers = [call.operation for call in self._once + self._steps if tensor in call.input_tensors]
        sizes = [getattr(x, "vocabulary_size", getattr(x, "input_dim", math.inf)) for x in readers]
        lengths = [getattr(x, "max_length", None) or math.inf for x in readers]
        return min(sizes, default=math.inf), min(lengths, default=math.inf)

    def read(self, sources):
        """What is computed once.

        Args:
            sources: A list of one array (B, S) int, or, decoder-only, of none.
        Returns:
            The keys and values of the source for each decoder block, and all else that the steps read.
        """
        values = dict(zip([self.prompt], sources, strict=False))
        for call in self._once:
            values |= _results(call, _run(call, values))
        return tuple(_source_pair(call, values) for call in self.blocks), tuple(values[x] for x in self._kept)

    def repeated(self, memory, count):
        """The memory of `read` for several targets of each source."""
        pairs, kept = memory
        rows = [1 if x.shape[0] else count for x in self._kept]  # what has no batch serves all rows
        kept = tuple(ops.repeat(x, n, axis=0) for x, n in zip(kept, rows, strict=True))
        return tree.map_structure(lambda x: ops.repeat(x, count, axis=0), pairs), kept

    def start(self, num_rows, length):
        """Empty caches with room for `length` positions: of the blocks, and of which positions are masked.

        Raises:
            ValueError: An attention_mask says more than which tokens of the target are not attended.
        """
        made = {x for call in self._steps for x in call.output_tensors}
        for mask in self._own_masks:
            symbolic = isinstance(mask, keras.KerasTensor)  # a constant one has no hash
            if mask is not None and not (symbolic and mask in made and mask.ndim == 3 and mask.shape[1] == 1):
                raise ValueError(
                    "use_cache must be False unless each attention_mask is made of the target, (B, 1, T); "
                    f"received one of shape {mask.shape}."
                )
        pairs = tuple(call.operation.start_cache(num_rows, length) for call in self.blocks)
        return pairs, tuple(ops.zeros((num_rows, length), "bool") for _ in self._masks)

    def fill(self, tokens, memory, caches):
        """The caches after the first N positions, of which tokens (R, N) int are known."""
        last = self._steps.index(self.blocks[-1])  # no cache depends on what follows
        return self._walk(self._steps[: last + 1], tokens, 0, memory, caches)[1]

    def step(self, tokens, position, memory, caches):
        """The logits at N new positions.

        Args:
            tokens: (R, N) int.
            position: Index of the first, int or scalar int tensor.
            memory: From `read`.
            caches: From `start`, `fill` or an earlier step.
        Returns:
            (R, N, V) float, and the caches with the new positions.
        """
        values, caches = self._walk(self._steps, tokens, position, memory, caches)
        return values[self.logits], caches

    def whole(self, sources, tokens):
        """The logits at all positions, without a cache: (R, T) int to (R, T, V) float."""
        values = dict(zip([self.prompt], sources, strict=False)) | {self.target: tokens}
        for call in self._once + self._steps:
            values |= _results(call, _run(call, values))
        return values[self.logits]

    def _walk(self, calls, tokens, position, memory, caches):
        (pairs, kept), (caches, allowed) = memory, caches
        values = dict(zip(self._kept, kept, strict=True)) | {self.target: ops.cast(tokens, self.target.dtype)}
        states, new, length = zip(pairs, caches, strict=True), [], caches[0][0].shape[2]
        allowed = dict(zip(self._masks, allowed, strict=True))  # at all positions, by the mask of a call
        for call in calls:
            layer = call.operation
            if isinstance(layer, DecoderBlock):
                result, cache = _step(call, values, position, *next(states), allowed)
                new.append(cache)
            elif isinstance(layer, RelativePositionBias):
                result = layer.rows(position, tokens.shape[1], length)
            elif isinstance(layer, TokenPositionEmbedding) and not _arguments(call).get("reverse"):
                result = _run(call, values, start=position)
            else:
                result = _run(call, values)
            values |= _results(call, result)
            for mask in allowed.keys() & call.output_tensors:
                shape = (allowed[mask].shape[0], tokens.shape[1])
                allowed[mask] = ops.slice_update(
                    allowed[mask], (0, position), ops.broadcast_to(values[mask][:, 0], shape)
                )
        return values, (tuple(new), tuple(allowed.values()))


def _calls(inputs, outputs):
    """The calls of layers and operations, each after those whose results it takes."""
    by_depth = keras.Function(inputs, outputs)._nodes_by_depth  # some models keep no calls
    calls = [call for depth in sorted(by_depth, reverse=True) for call in by_depth[depth]]
    return [call for call in calls if not call.is_input]


def _cut(calls, target):
    """The calls that do not depend on the target, those that do, and what these read of those."""
    once, steps, reached, kept = [], [], {target}, {}
    for call in calls:
        if reached.isdisjoint(call.input_tensors):
            once.append(call)
            continue
        steps.append(call)
        reached.update(call.output_tensors)
        source = _arguments(call).get("source") if isinstance(call.operation, DecoderBlock) else None
        kept |= {x: None for x in call.input_tensors if x not in reached and x is not source}
    return once, steps, list(kept)


def _arguments(call):
    """The arguments of a layer's call, by name."""
    arguments = call.arguments
    bound = inspect.signature(call.operation.call).bind(*arguments.args, **arguments.kwargs)
    return bound.arguments


def _filled(structure, values):
    return tree.map_structure(lambda x: values[x] if isinstance(x, keras.KerasTensor) else x, structure)


def _run(call, values, **changed):
    args, kwargs = _filled((call.arguments.args, call.arguments.kwargs), values)
    kwargs |= changed | ({"training": False} if "training" in kwargs else {})
    return call.operation(*args, **kwargs)


def _step(call, values, position, source_pair, cache, allowed):
    names = ("target", "source_mask", "position_bias")
    target, mask, bias = (_filled(_arguments(call).get(name), values) for name in names)
    own_mask = _arguments(call).get("attention_mask")
    own_mask = None if own_mask is None else allowed[own_mask][:, None]
    return call.operation.step(target, cache, position, source_pair or None, mask, bias, own_mask)


def _results(call, result):
    return dict(zip(call.output_tensors, tree.flatten(result), strict=True))


def _source_pair(call, values):
    source = _arguments(call).get("source")
    return () if source is None else call.operation.project_source(values[source])


def compiled(model, function, fused):
    """A function that calls layers of the model, compiled for the backend; weights may change later."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=fused)
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
