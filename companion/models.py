"""Whole Transformers, as functions that return a functional `keras.Model` (article sections 3 and 8.1).

Every model reads int tokens, saves to `.keras`, and loads wherever `companion` is imported. Its inputs are
given as a dictionary, or as a list in the order named.
"""

import functools

import keras
from keras import layers

from companion.attention import padding_mask
from companion.base import Dropout, check_at_least, takes_plain_numbers
from companion.decoder import DecoderBlock
from companion.embedding import RelativePositionBias, TokenPositionEmbedding
from companion.encoder import EncoderBlock, activation_named, normalization


@takes_plain_numbers
def transformer(
    source_vocabulary_size: int,
    target_vocabulary_size: int,
    max_length: int,
    model_dim: int = 128,
    num_heads: int = 4,
    hidden_dim: int = 512,
    num_layers: int = 2,
    dropout: float = 0.1,
    norm_first: bool = True,
    activation: str = "relu",
    epsilon: float = 1e-6,
    positions: str = "sinusoidal",
    scaled: bool = True,
    shared: bool = False,
    num_decoder_layers: int | None = None,
    decoder_num_heads: int | None = None,
    decoder_hidden_dim: int | None = None,
    padding_id: int = 0,
) -> keras.Model:
    """The encoder-decoder: reads a source, and at each target position scores the next token.

    Args:
        source_vocabulary_size, target_vocabulary_size: Numbers of token ids.
        max_length: Longest source and longest target.
        model_dim, num_heads, hidden_dim, dropout, norm_first, activation, epsilon: see `EncoderBlock` and
            `DecoderBlock`.
        num_layers: Encoder blocks, >= 1.
        positions, scaled: see `TokenPositionEmbedding`.
        shared: One embedding for sources, targets and, read backwards and with a bias, for the logits; both
            vocabularies are then one.
        num_decoder_layers, decoder_num_heads, decoder_hidden_dim: As the encoder's if not given.
        padding_id: Fills short sources.
    Returns:
        Model from {"source_tokens": (B, S) int, "target_tokens": (B, T) int} to logits (B, T, V) float32 over
        the target vocabulary. Targets are padded on the right, where a causal model does not look.
    Raises:
        ValueError: A number of blocks below 1, sizes of a shared vocabulary that differ, or as the blocks.
    Source: Vaswani et al. 2017, section 3 and figure 1. Differs: by default normalizes first, with separate
    embeddings. Marian's translation models (Junczys-Dowmunt et al. 2018) are norm_first=False, shared=True,
    activation="silu", epsilon=1e-5, positions="sinusoidal_halves".
    """
    own = (num_decoder_layers, num_layers), (decoder_num_heads, num_heads), (decoder_hidden_dim, hidden_dim)
    num_decoder_layers, *decoder_sizes = (same if given is None else given for given, same in own)
    check_at_least(1, num_layers=num_layers, num_decoder_layers=num_decoder_layers)
    if shared and source_vocabulary_size != target_vocabulary_size:
        raise ValueError(
            "a shared vocabulary must have one size; received source_vocabulary_size="
            f"{source_vocabulary_size}, target_vocabulary_size={target_vocabulary_size}."
        )
    inputs = source_tokens, target_tokens = _tokens("source_tokens", "target_tokens")
    embedding = functools.partial(
        TokenPositionEmbedding,
        max_length=max_length,
        model_dim=model_dim,
        positions=positions,
        dropout=dropout,
        scaled=scaled,
    )
    if shared:
        embed_source = embedding(source_vocabulary_size, output_bias=True, name="embedding")
    else:
        embed_source = embedding(source_vocabulary_size, name="source_embedding")

    variant = {"norm_first": norm_first, "activation": activation, "epsilon": epsilon}
    source_mask = padding_mask(source_tokens, padding_id)
    sizes = model_dim, num_heads, hidden_dim, dropout
    source = _encoded(embed_source(source_tokens), num_layers, sizes, variant, attention_mask=source_mask)
    embed_target = embed_source if shared else embedding(target_vocabulary_size, name="target_embedding")
    target = embed_target(target_tokens)
    sizes = model_dim, *decoder_sizes, dropout
    target = _decoded(target, num_decoder_layers, sizes, variant, source=source, source_mask=source_mask)
    if shared:
        logits = embed_target(target, reverse=True)
    else:
        logits = layers.Dense(target_vocabulary_size, name="logits", dtype="float32")(target)
    return keras.Model(inputs, logits, name="transformer")


@takes_plain_numbers
def gpt(
    vocabulary_size: int,
    max_length: int,
    model_dim: int = 128,
    num_heads: int = 4,
    hidden_dim: int = 512,
    num_layers: int = 2,
    dropout: float = 0.1,
    activation: str = "gelu_tanh",
    epsilon: float = 1e-5,
    padding_id: int | None = None,
) -> keras.Model:
    """Decoder-only: at each position scores the next token from all up to it.

    Args:
        vocabulary_size: Number of token ids V.
        max_length: Longest text T.
        model_dim, num_heads, hidden_dim, dropout, activation, epsilon: see `DecoderBlock`.
        num_layers: Decoder blocks, >= 1.
        padding_id: Not attended to. Texts padded on the right need none: a causal model does not look there.
    Returns:
        Model from tokens (B, T) int to logits (B, T, V) float32.
    Raises:
        ValueError: num_layers below 1, or as `DecoderBlock`.
    Source: Radford et al. 2018, section 3.1, as changed in Radford et al. 2019, section 2.3: normalizes
    first, and once more at the end. Differs: deeper models do not start with smaller output projections.
    """
    check_at_least(1, num_layers=num_layers)
    (tokens,) = _tokens("tokens")
    embedding = TokenPositionEmbedding(
        vocabulary_size, max_length, model_dim, "learned", dropout, 0.02, scaled=False, name="embedding"
    )
    mask = None if padding_id is None else padding_mask(tokens, padding_id)
    sizes = model_dim, num_heads, hidden_dim, dropout
    variant = {"activation": activation, "epsilon": epsilon, "cross_attention": False}
    x = _decoded(embedding(tokens), num_layers, sizes, variant, attention_mask=mask)
    return keras.Model(tokens, embedding(x, reverse=True), name="gpt")


@takes_plain_numbers
def bert(
    vocabulary_size: int,
    max_length: int,
    model_dim: int = 128,
    num_heads: int = 4,
    hidden_dim: int = 512,
    num_layers: int = 2,
    dropout: float = 0.1,
    activation: str = "gelu",
    epsilon: float = 1e-12,
    num_segments: int = 2,
    pooler: bool = True,
    masked_lm: bool = True,
    padding_id: int = 0,
) -> keras.Model:
    """Encoder-only: a vector for each token that has seen the tokens on both sides.

    Args:
        vocabulary_size: Number of token ids V.
        max_length: Longest text T.
        model_dim, num_heads, hidden_dim, dropout, activation, epsilon: see `EncoderBlock`.
        num_layers: Encoder blocks, >= 1.
        num_segments: Kinds of segments: sentence A is 0, sentence B 1; zeros for a single text.
        pooler: Also return a vector for the whole text, made of the first token's.
        masked_lm: Also return a score for every token at each place, which training on masked tokens needs.
        padding_id: Not attended to.
    Returns:
        Model from {"tokens": (B, T) int, "segments": (B, T) int} to the tuple of hidden (B, T, M) float,
        pooled (B, M) float from -1 to 1, and logits (B, T, V) float32; without pooler or masked_lm, these are
        left out, and a single output is no tuple.
    Raises:
        ValueError: num_layers below 1, or as `EncoderBlock`.
    Source: Devlin et al. 2019, section 3 and appendix A; the head of the masked model is in their code only.
    """
    check_at_least(1, num_layers=num_layers)
    inputs = tokens, segments = _tokens("tokens", "segments")
    embedding = TokenPositionEmbedding(
        *(vocabulary_size, max_length, model_dim, "learned"),
        initial_stddev=0.02,
        scaled=False,
        output_bias=masked_lm,
        name="embedding",
    )
    segment_embedding = layers.Embedding(
        num_segments, model_dim, keras.initializers.RandomNormal(stddev=0.02), name="segment_embedding"
    )
    x = embedding(tokens) + segment_embedding(segments)
    x = layers.LayerNormalization(epsilon=epsilon, name="embedding_norm")(x)
    x = Dropout(dropout, name="embedding_dropout")(x)
    mask = padding_mask(tokens, padding_id)
    sizes = model_dim, num_heads, hidden_dim, dropout
    variant = {"norm_first": False, "activation": activation, "epsilon": epsilon}
    outputs = [_encoded(x, num_layers, sizes, variant, attention_mask=mask)]
    if pooler:
        outputs.append(layers.Dense(model_dim, "tanh", name="pooler")(outputs[0][:, 0]))
    if masked_lm:
        x = layers.Dense(model_dim, activation_named(activation), name="masked_lm_transform")(outputs[0])
        x = layers.LayerNormalization(epsilon=epsilon, name="masked_lm_norm")(x)
        outputs.append(embedding(x, reverse=True))
    return keras.Model(inputs, outputs[0] if len(outputs) == 1 else tuple(outputs), name="bert")


@takes_plain_numbers
def t5(
    vocabulary_size: int,
    model_dim: int = 128,
    num_heads: int = 4,
    hidden_dim: int = 512,
    num_layers: int = 2,
    num_decoder_layers: int | None = None,
    head_dim: int | None = None,
    dropout: float = 0.1,
    activation: str = "relu",
    gated: bool = False,
    tied: bool = True,
    epsilon: float = 1e-6,
    num_buckets: int = 32,
    max_distance: int = 128,
    padding_id: int = 0,
) -> keras.Model:
    """The encoder-decoder that reads and writes any task as text.

    Args:
        vocabulary_size: Number of token ids V, for sources and targets.
        model_dim, num_heads, hidden_dim, head_dim, dropout, activation, gated, epsilon: see `EncoderBlock`;
            v1.1 is activation="gelu_tanh", gated=True, tied=False.
        num_layers: Encoder blocks, >= 1.
        num_decoder_layers: Decoder blocks; as many if not given.
        tied: The output layer is the embedding read backwards.
        num_buckets, max_distance: see `RelativePositionBias`.
        padding_id: Fills short sources; targets are padded on the right, where a causal model does not look.
    Returns:
        Model from {"source_tokens": (B, S) int, "target_tokens": (B, T) int} to logits (B, T, V) float32;
        S and T have no limit.
    Raises:
        ValueError: A number of blocks below 1, or as `EncoderBlock` and `RelativePositionBias`.
    Source: Raffel et al. 2020, section 2.1; v1.1: Shazeer 2020. Differs: no dropout after the last blocks.
    """
    num_decoder_layers = num_layers if num_decoder_layers is None else num_decoder_layers
    check_at_least(1, num_layers=num_layers, num_decoder_layers=num_decoder_layers)
    inputs = source_tokens, target_tokens = _tokens("source_tokens", "target_tokens")
    embedding = TokenPositionEmbedding(
        vocabulary_size, None, model_dim, "none", dropout, scaled=False, name="embedding"
    )
    source_mask = padding_mask(source_tokens, padding_id)
    sizes = model_dim, num_heads, hidden_dim, dropout
    variant = {"norm": "rms", "epsilon": epsilon, "activation": activation, "gated": gated}
    variant |= {"use_bias": False, "head_dim": head_dim, "scaled": False}
    buckets = num_heads, num_buckets, max_distance
    bias = RelativePositionBias(*buckets, name="encoder_position_bias")(source_tokens)
    source = embedding(source_tokens)
    source = _encoded(source, num_layers, sizes, variant, attention_mask=source_mask, position_bias=bias)
    bias = RelativePositionBias(*buckets, bidirectional=False, name="decoder_position_bias")(target_tokens)
    seen = {"source": source, "source_mask": source_mask, "position_bias": bias}
    target = _decoded(embedding(target_tokens), num_decoder_layers, sizes, variant, **seen)
    if tied:
        logits = embedding(target * model_dim**-0.5, reverse=True)
    else:
        logits = layers.Dense(vocabulary_size, use_bias=False, name="logits", dtype="float32")(target)
    return keras.Model(inputs, logits, name="t5")


def _tokens(*names):
    # a list takes dictionaries too; a dictionary would take lists in alphabetical order only
    return [keras.Input((None,), dtype="int32", name=name) for name in names]


def _encoded(x, num_layers, sizes, variant, **call):
    """A stack of encoder blocks; those that normalize first end with one more normalization."""
    for i in range(num_layers):
        x = EncoderBlock(*sizes, **variant, name=f"encoder_{i}")(x, **call)
    return _last_norm(x, variant, "encoder_norm")


def _decoded(x, num_layers, sizes, variant, **call):
    for i in range(num_layers):
        x = DecoderBlock(*sizes, **variant, name=f"decoder_{i}")(x, **call)
    return _last_norm(x, variant, "decoder_norm")


def _last_norm(x, variant, name):
    if not variant.get("norm_first", True):
        return x
    return normalization(variant.get("norm", "layer"), epsilon=variant["epsilon"], name=name)(x)
