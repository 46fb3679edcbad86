"""What a model computes on the way to its answer (article section 3.3)."""

import keras
import numpy as np
from keras import ops

from companion.decoder import DecoderBlock
from companion.encoder import EncoderBlock
from companion.pretraining import vocabulary_head


def attention_weights(model: keras.Model, inputs) -> dict:
    """The attention weights that the model uses on these inputs, block by block; the model stays as it is.

    Args:
        model: A functional model holding `EncoderBlock` or `DecoderBlock` layers, with or without LoRA, or
            other such models. Of what it calls several times the first call counts.
        inputs: What the model takes.
    Returns:
        {layer name: weights}, in the order of the calls: (B, H, S, S) float32 array for an encoder block; for
        a decoder block the pair of its self-attention (B, H, T, T) and source attention (B, H, T, S) or None.
        The blocks of a model inside the model are called "its name/layer name".
    Raises:
        ValueError: the model is not functional, has no such layer, or lacks an input.
    """
    weights = _weights(model, inputs)
    if not weights:
        raise ValueError(
            f"model must hold EncoderBlock or DecoderBlock layers; received {model.name!r} without any."
        )
    return keras.tree.map_structure(
        lambda x: None if x is None else ops.convert_to_numpy(ops.cast(x, "float32")), weights
    )


def stacked_weights(weights: dict, kind: str, example: int = 0) -> np.ndarray:
    """One text's attention of one kind, all layers in one array, as `attention_explorer` takes it.

    Args:
        weights: From `attention_weights`.
        kind: "encoder": self-attention of the encoder blocks; "decoder": of the decoder blocks; "source":
            what the decoder blocks attend to in the source.
        example: Which text of the batch.
    Returns:
        (layers, H, T, S) float32.
    Raises:
        ValueError: There are no weights of this kind.
    """
    pairs = [one for one in weights.values() if isinstance(one, tuple)]
    kinds = {
        "encoder": [one for one in weights.values() if not isinstance(one, tuple)],
        "decoder": [of_itself for of_itself, _ in pairs],
        "source": [of_source for _, of_source in pairs if of_source is not None],
    }
    if not kinds.get(kind):
        found = " or ".join(repr(name) for name, some in kinds.items() if some)
        raise ValueError(f"kind must be {found} with these weights; received kind={kind!r}.")
    return np.stack([one[example] for one in kinds[kind]])


def logit_lens(model: keras.Model, inputs) -> np.ndarray:
    """What the model would answer after each of its blocks: the later ones left out, its last layers kept.

    Args:
        model: A functional model whose last output is a score for each token at each place, such as `gpt`,
            `bert`, `transformer` and `t5`.
        inputs: What the model takes.
    Returns:
        (B, layers, T, V) float32 probabilities, of the decoder blocks if the model has any; those of the last
        layer are the model's own.
    Raises:
        ValueError: the model is not functional, has no blocks, ends in something else, or lacks an input.
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens", a blog post on GPT-2. Differs: begins
    after the first block, not at the embedding; takes other models too, of BERT its head for masked tokens.
    """
    calls = _calls(model)
    blocks = [call for call in calls if isinstance(call.operation, DecoderBlock)]
    blocks = blocks or [call for call in calls if isinstance(call.operation, EncoderBlock)]
    scores = model.outputs[-1]
    if not blocks or vocabulary_head(model) is None or len(scores.shape) != 3:
        raise ValueError(
            "model must hold EncoderBlock or DecoderBlock layers and end in scores (B, T, V); "
            f"received {model.name!r}."
        )
    ends = [call.output_tensors[0] for call in blocks]
    rest = keras.Model(ends[-1], scores)
    layers = [ops.softmax(ops.cast(rest(hidden), "float32")) for hidden in _values(model, inputs, ends)]
    return ops.convert_to_numpy(ops.stack(layers, axis=1))


def _weights(model, inputs):
    calls = {}
    for call in _calls(model):
        if isinstance(call.operation, EncoderBlock | DecoderBlock | keras.Model):
            calls.setdefault(call.operation, call)
    arguments = [(call.arguments.args, call.arguments.kwargs) for call in calls.values()]
    weights = {}
    for layer, (args, kwargs) in zip(calls, _values(model, inputs, arguments), strict=True):
        if isinstance(layer, keras.Model):
            inner = _weights(layer, args[0] if args else kwargs["inputs"])
            weights |= {f"{layer.name}/{name}": one for name, one in inner.items()}
        else:
            kwargs = {name: x for name, x in kwargs.items() if name != "training"}
            weights[layer.name] = layer.attention_weights(*args, **kwargs)
    return weights


def _calls(model):
    """This model's own calls, each after those whose results it takes: layers may be called elsewhere too."""
    if not hasattr(model, "outputs"):
        raise ValueError(
            "model must be functional, as the one that a Pretrainer trains; "
            f"received {type(model).__name__} {getattr(model, 'name', '')!r}."
        )
    by_depth = keras.Function(model.inputs, model.outputs)._nodes_by_depth  # a Sequential keeps no nodes
    return [call for depth in sorted(by_depth, reverse=True) for call in by_depth[depth]]


def _values(model, inputs, symbols):
    """The structure with what the model computes in the place of its symbolic tensors."""
    leaves = keras.tree.flatten(symbols)
    tensors = [x for x in leaves if isinstance(x, keras.KerasTensor)]
    if not tensors:
        return symbols
    values = keras.Model(model.inputs, tensors)(_as_list(model, inputs))
    values = iter(keras.tree.flatten(values))  # of one tensor a model returns no list
    leaves = [next(values) if isinstance(x, keras.KerasTensor) else x for x in leaves]
    return keras.tree.pack_sequence_as(symbols, leaves)


def _as_list(model, inputs):
    if not isinstance(inputs, dict):
        return keras.tree.flatten(inputs)
    missing = [x.name for x in model.inputs if x.name not in inputs]
    if missing:
        raise ValueError(f"inputs must hold {', '.join(missing)}; received {', '.join(inputs) or 'nothing'}.")
    return [inputs[x.name] for x in model.inputs]
