"""What a model attends to (article section 3.3)."""

import keras
from keras import ops

from companion.decoder import DecoderBlock
from companion.encoder import EncoderBlock


def attention_weights(model: keras.Model, inputs) -> dict:
    """The attention weights that the model uses on these inputs, block by block; the model stays as it is.

    Args:
        model: A functional model holding `EncoderBlock` or `DecoderBlock` layers. Of a block that it calls
            several times the first call counts.
        inputs: What the model takes.
    Returns:
        {layer name: weights}, in the model's order: (B, H, S, S) float32 array for an encoder block; for a
        decoder block the pair of its self-attention (B, H, T, T) and source attention (B, H, T, S) or None.
    Raises:
        ValueError: the model has no such layer.
    """
    blocks = [layer for layer in model.layers if isinstance(layer, (EncoderBlock, DecoderBlock))]
    if not blocks:
        raise ValueError(
            f"model must hold EncoderBlock or DecoderBlock layers; received {model.name!r} without any."
        )
    calls = {block.name: _call_in(model, block) for block in blocks}
    arguments = {name: {"args": call.args, "kwargs": call.kwargs} for name, call in calls.items()}
    leaves = keras.tree.flatten(arguments)
    tensors = [x for x in leaves if isinstance(x, keras.KerasTensor)]
    values = keras.Model(model.inputs, tensors)(_as_list(model, inputs))
    values = iter(keras.tree.flatten(values))  # of one tensor a model returns no list
    leaves = [next(values) if isinstance(x, keras.KerasTensor) else x for x in leaves]
    arguments = keras.tree.pack_sequence_as(arguments, leaves)
    weights = {}
    for block in blocks:
        call = {name: x for name, x in arguments[block.name]["kwargs"].items() if name != "training"}
        weights[block.name] = block.attention_weights(*arguments[block.name]["args"], **call)
    return keras.tree.map_structure(lambda x: None if x is None else ops.convert_to_numpy(x), weights)


def _call_in(model, block):
    """The arguments of a block's call in this model: it may be called in others too."""
    graph = keras.Model(model.inputs, model.outputs)  # a Sequential keeps no nodes
    nodes = [node for some in graph._nodes_by_depth.values() for node in some]
    return next(node.arguments for node in block._inbound_nodes if node in nodes)


def _as_list(model, inputs):
    return [inputs[x.name] for x in model.inputs] if isinstance(inputs, dict) else keras.tree.flatten(inputs)
