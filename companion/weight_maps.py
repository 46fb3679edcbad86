"""Which of our weights is which tensor of a Hugging Face checkpoint: one map per family, read both ways."""

from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np


class Row(NamedTuple):
    """One tensor of a checkpoint.

    Args:
        name: Its name there, without the prefix of the family.
        variables: Our weights that it holds, side by side along their last axis.
        layout: "same"; "transposed", as torch keeps the matrices of dense layers; "lifted": one axis of
            length 1 before the others.
    """

    name: str
    variables: tuple
    layout: str = "same"

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape in the checkpoint."""
        first = tuple(self.variables[0].shape)
        joined = (*first[:-1], sum(variable.shape[-1] for variable in self.variables))
        return {"same": joined, "transposed": joined[::-1], "lifted": (1, *joined)}[self.layout]

    def theirs(self) -> np.ndarray:
        """Our weights as the checkpoint keeps them, float32."""
        arrays = [keras.ops.convert_to_numpy(variable).astype("float32") for variable in self.variables]
        joined = np.concatenate(arrays, axis=-1)
        return {"same": joined, "transposed": joined.T, "lifted": joined[None]}[self.layout]

    def assign(self, tensor: np.ndarray) -> None:
        """Sets our weights to what the checkpoint has."""
        joined = {"same": tensor, "transposed": tensor.T, "lifted": tensor.reshape(-1)}[self.layout]
        ends = np.cumsum([variable.shape[-1] for variable in self.variables])
        for variable, part in zip(self.variables, np.split(joined, ends[:-1], axis=-1), strict=True):
            variable.assign(part)


def gpt2_rows(model: keras.Model) -> Iterator[Row]:
    """The map of GPT-2: its matrices are kept as ours are, those of query, key and value in one."""
    embedding = model.get_layer("embedding")
    yield Row("wte.weight", (embedding.token_table,))
    yield Row("wpe.weight", (embedding.position_table,))
    for i, block in enumerate(blocks(model, "decoder")):
        attention, dense = block.self_attention, block.feed_forward
        fused = attention.query_projection, attention.key_projection, attention.value_projection
        yield from _norm(f"h.{i}.ln_1", block.self_attention_norm)
        yield from _dense(f"h.{i}.attn.c_attn", *fused, layout="same")
        yield from _dense(f"h.{i}.attn.c_proj", attention.output_projection, layout="same")
        yield from _norm(f"h.{i}.ln_2", block.feed_forward_norm)
        yield from _dense(f"h.{i}.mlp.c_fc", dense.hidden, layout="same")
        yield from _dense(f"h.{i}.mlp.c_proj", dense.output_projection, layout="same")
    yield from _norm("ln_f", model.get_layer("decoder_norm"))


def bert_rows(model: keras.Model) -> Iterator[Row]:
    """The map of BERT; pooler and masked-LM head if the model has them."""
    embedding, names = model.get_layer("embedding"), {layer.name for layer in model.layers}
    yield Row("embeddings.word_embeddings.weight", (embedding.token_table,))
    yield Row("embeddings.position_embeddings.weight", (embedding.position_table,))
    yield Row("embeddings.token_type_embeddings.weight", (model.get_layer("segment_embedding").embeddings,))
    yield from _norm("embeddings.LayerNorm", model.get_layer("embedding_norm"))
    for i, block in enumerate(blocks(model, "encoder")):
        at, attention, dense = f"encoder.layer.{i}", block.attention, block.feed_forward
        yield from _dense(f"{at}.attention.self.query", attention.query_projection)
        yield from _dense(f"{at}.attention.self.key", attention.key_projection)
        yield from _dense(f"{at}.attention.self.value", attention.value_projection)
        yield from _dense(f"{at}.attention.output.dense", attention.output_projection)
        yield from _norm(f"{at}.attention.output.LayerNorm", block.attention_norm)
        yield from _dense(f"{at}.intermediate.dense", dense.hidden)
        yield from _dense(f"{at}.output.dense", dense.output_projection)
        yield from _norm(f"{at}.output.LayerNorm", block.feed_forward_norm)
    if "pooler" in names:
        yield from _dense("pooler.dense", model.get_layer("pooler"))
    if "masked_lm_transform" in names:
        yield from _dense("cls.predictions.transform.dense", model.get_layer("masked_lm_transform"))
        yield from _norm("cls.predictions.transform.LayerNorm", model.get_layer("masked_lm_norm"))
        yield Row("cls.predictions.bias", (embedding.output_bias,))


def t5_rows(model: keras.Model) -> Iterator[Row]:
    """The map of T5: no biases; the first block of each side holds the relative positions of all."""
    yield Row("shared.weight", (model.get_layer("embedding").token_table,))
    for side in ("encoder", "decoder"):
        table = model.get_layer(f"{side}_position_bias").bias_table
        yield Row(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (table,))
        for i, block in enumerate(blocks(model, side)):
            yield from _t5_block(f"{side}.block.{i}.layer", block)
        yield _scale(f"{side}.final_layer_norm", model.get_layer(f"{side}_norm"))
    if any(layer.name == "logits" for layer in model.layers):
        yield Row("lm_head.weight", (model.get_layer("logits").kernel,), "transposed")


def _t5_block(at, block):
    if hasattr(block, "attention"):
        parts = [("SelfAttention", block.attention, block.attention_norm)]
    else:
        parts = [("SelfAttention", block.self_attention, block.self_attention_norm)]
        parts += [("EncDecAttention", block.source_attention, block.source_attention_norm)]
    for i, (name, attention, norm) in enumerate(parts):
        for letter, projection in zip("qkvo", _projections(attention), strict=True):
            yield Row(f"{at}.{i}.{name}.{letter}.weight", (projection.kernel,), "transposed")
        yield _scale(f"{at}.{i}.layer_norm", norm)
    last, dense = len(parts), block.feed_forward
    inner = {"wi_0": dense.hidden, "wi_1": dense.gate} if dense.gate else {"wi": dense.hidden}
    for name, layer in (inner | {"wo": dense.output_projection}).items():
        yield Row(f"{at}.{last}.DenseReluDense.{name}.weight", (layer.kernel,), "transposed")
    yield _scale(f"{at}.{last}.layer_norm", block.feed_forward_norm)


def marian_rows(model: keras.Model) -> Iterator[Row]:
    """The map of Marian's translation models."""
    embedding = model.get_layer("embedding")
    yield Row("shared.weight", (embedding.token_table,))
    yield Row("final_logits_bias", (embedding.output_bias,), "lifted")
    for side in ("encoder", "decoder"):
        for i, block in enumerate(blocks(model, side)):
            yield from _marian_block(f"{side}.layers.{i}", block)


def _marian_block(at, block):
    if hasattr(block, "attention"):
        parts = [("self_attn", block.attention, block.attention_norm)]
    else:
        parts = [("self_attn", block.self_attention, block.self_attention_norm)]
        parts += [("encoder_attn", block.source_attention, block.source_attention_norm)]
    for name, attention, norm in parts:
        for part, projection in zip(("q", "k", "v", "out"), _projections(attention), strict=True):
            yield from _dense(f"{at}.{name}.{part}_proj", projection)
        yield from _norm(f"{at}.{name}_layer_norm", norm)
    yield from _dense(f"{at}.fc1", block.feed_forward.hidden)
    yield from _dense(f"{at}.fc2", block.feed_forward.output_projection)
    yield from _norm(f"{at}.final_layer_norm", block.feed_forward_norm)


def blocks(model: keras.Model, side: str) -> list[keras.layers.Layer]:
    """The blocks of the "encoder" or of the "decoder", in their order."""
    named = {layer.name: layer for layer in model.layers}
    count = sum(name.removeprefix(f"{side}_").isdigit() for name in named)
    return [named[f"{side}_{i}"] for i in range(count)]


def _projections(attention):
    return (
        *(attention.query_projection, attention.key_projection),
        *(attention.value_projection, attention.output_projection),
    )


def _dense(name, *layers, layout="transposed"):
    yield Row(f"{name}.weight", tuple(layer.kernel for layer in layers), layout)
    yield Row(f"{name}.bias", tuple(layer.bias for layer in layers))


def _norm(name, layer):
    yield Row(f"{name}.weight", (layer.gamma,))
    yield Row(f"{name}.bias", (layer.beta,))


def _scale(name, layer):
    return Row(f"{name}.weight", (layer.scale,))
