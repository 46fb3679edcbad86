"""The families of checkpoints that are read and written: one table each, of what their config.json says."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

from companion.models import bert, gpt, t5, transformer
from companion.weight_maps import Row, bert_rows, gpt2_rows, marian_rows, t5_rows

REQUIRED = object()
# theirs: ours; of ours with several names the first is written
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"}
ACTIVATIONS |= {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu", "tanh": "tanh"}


class Field(NamedTuple):
    """One line of a config: their name, the argument of our model, and what holds if it is not there."""

    name: str
    argument: str
    default: Any = REQUIRED


class Family(NamedTuple):
    """How checkpoints of one architecture are read and written.

    Args:
        builder: Our model.
        rows: Its weights, see `companion.weight_maps`.
        architectures: The classes of transformers whose checkpoints are read; the last is written.
        fields: What the config says.
        fixed: What it must say, if it says anything: nothing else is supported.
        prefix: May stand before the tensors' names; headless names never have it.
        ignored: A pattern of tensors that hold no weights of our models.
        tied: {tensor: tensor}: the same numbers under another name.
        also: {their name: our argument}, written beside the fields.
    """

    builder: Callable[..., keras.Model]
    rows: Callable[[keras.Model], Iterator[Row]]
    architectures: tuple[str, ...]
    fields: tuple[Field, ...]
    fixed: dict[str, tuple]
    prefix: str = ""
    headless: str = "(?!)"
    ignored: str = "(?!)"
    tied: dict[str, str] = {}
    also: dict[str, str] = {}


FAMILIES = {
    "gpt2": Family(
        gpt,
        gpt2_rows,
        ("GPT2Model", "GPT2LMHeadModel"),
        (
            Field("vocab_size", "vocabulary_size"),
            Field("n_positions", "max_length"),
            Field("n_embd", "model_dim"),
            Field("n_head", "num_heads"),
            Field("n_inner", "hidden_dim", None),
            Field("n_layer", "num_layers"),
            Field("resid_pdrop", "dropout", 0.1),
            Field("activation_function", "activation", "gelu_new"),
            Field("layer_norm_epsilon", "epsilon", 1e-5),
        ),
        {
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "reorder_and_upcast_attn": (False,),
            "add_cross_attention": (False,),
            "tie_word_embeddings": (True,),
        },
        prefix="transformer.",
        headless=r"lm_head\.",
        ignored=r"h\.\d+\.attn\.(bias|masked_bias)",
        tied={"lm_head.weight": "wte.weight"},
        also={"embd_pdrop": "dropout", "attn_pdrop": "dropout"},
    ),
    "bert": Family(
        bert,
        bert_rows,
        ("BertForPreTraining", "BertModel", "BertForMaskedLM"),
        (
            Field("vocab_size", "vocabulary_size"),
            Field("max_position_embeddings", "max_length"),
            Field("hidden_size", "model_dim"),
            Field("num_attention_heads", "num_heads"),
            Field("intermediate_size", "hidden_dim"),
            Field("num_hidden_layers", "num_layers"),
            Field("hidden_dropout_prob", "dropout", 0.1),
            Field("hidden_act", "activation", "gelu"),
            Field("layer_norm_eps", "epsilon", 1e-12),
            Field("type_vocab_size", "num_segments", 2),
            Field("pad_token_id", "padding_id", 0),
        ),
        {
            "position_embedding_type": ("absolute",),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
            "tie_word_embeddings": (True,),
            "pruned_heads": ({},),
        },
        prefix="bert.",
        headless=r"cls\.",
        ignored=r"embeddings\.(position_ids|token_type_ids)|cls\.seq_relationship\.(weight|bias)",
        tied={
            "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
        also={"attention_probs_dropout_prob": "dropout"},
    ),
    "t5": Family(
        t5,
        t5_rows,
        ("T5ForConditionalGeneration",),
        (
            Field("vocab_size", "vocabulary_size"),
            Field("d_model", "model_dim"),
            Field("num_heads", "num_heads"),
            Field("d_ff", "hidden_dim"),
            Field("num_layers", "num_layers"),
            Field("num_decoder_layers", "num_decoder_layers", None),
            Field("d_kv", "head_dim"),
            Field("dropout_rate", "dropout", 0.1),
            Field("layer_norm_epsilon", "epsilon", 1e-6),
            Field("relative_attention_num_buckets", "num_buckets", 32),
            Field("relative_attention_max_distance", "max_distance", 128),
            Field("pad_token_id", "padding_id", 0),
        ),
        {"is_decoder": (False,), "is_encoder_decoder": (True,)},
        # published checkpoints of v1.0 hold one that was never used
        ignored=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
        tied={
            "encoder.embed_tokens.weight": "shared.weight",
            "decoder.embed_tokens.weight": "shared.weight",
            "lm_head.weight": "shared.weight",
        },
    ),
    "marian": Family(
        transformer,
        marian_rows,
        ("MarianMTModel",),
        (
            Field("vocab_size", "source_vocabulary_size"),
            Field("max_position_embeddings", "max_length"),
            Field("d_model", "model_dim"),
            Field("encoder_attention_heads", "num_heads"),
            Field("encoder_ffn_dim", "hidden_dim"),
            Field("encoder_layers", "num_layers"),
            Field("decoder_attention_heads", "decoder_num_heads"),
            Field("decoder_ffn_dim", "decoder_hidden_dim"),
            Field("decoder_layers", "num_decoder_layers"),
            Field("dropout", "dropout", 0.1),
            Field("activation_function", "activation", "gelu"),
            Field("scale_embedding", "scaled", False),
            Field("pad_token_id", "padding_id"),
        ),
        {
            "share_encoder_decoder_embeddings": (True,),
            "tie_word_embeddings": (True,),
            "static_position_embeddings": (True,),
            "normalize_before": (False,),
            "normalize_embedding": (False,),
            "add_final_layer_norm": (False,),
            "is_decoder": (False,),
            "is_encoder_decoder": (True,),
        },
        prefix="model.",
        headless=r"lm_head\.|final_logits_bias",
        tied={
            "encoder.embed_tokens.weight": "shared.weight",
            "decoder.embed_tokens.weight": "shared.weight",
            "lm_head.weight": "shared.weight",
        },
        also={"decoder_vocab_size": "source_vocabulary_size", "attention_dropout": "dropout"},
    ),
}
# what our transformer must be made with, to be one of Marian's
MARIAN = {"shared": True, "norm_first": False, "positions": "sinusoidal_halves", "epsilon": 1e-5}
