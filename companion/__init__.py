"""companion: the layers, models and tools of an article on large language models, in Keras 3.

The layers and models are imported with the package, so that a saved model loads after `import companion`;
everything else is imported on first use, because it needs libraries that the layers do not: those of the
extra "tools" in pyproject.toml.
"""

import importlib

from companion.attention import (
    MultiHeadAttention,
    attention_distribution,
    causal_mask,
    padding_mask,
    scaled_dot_product_attention,
)
from companion.decoder import DecoderBlock
from companion.embedding import TokenPositionEmbedding, positional_encoding
from companion.encoder import EncoderBlock, FeedForward
from companion.generation import generate
from companion.models import (
    attention_weights,
    lstm_classifier,
    lstm_seq2seq,
    transformer,
    transformer_classifier,
)

__version__ = "0.1.0"

_ON_FIRST_USE = {
    "tokenizer": [],
    "text": ["WordTokenizer", "SubwordTokenizer", "load_tokenizer"],
    "splits": [],
    "prose": [],
    "download": [],
    "sources": [],
    "library": [],
    "parallel": [],
    "data": [],
    "evaluation": [],
    "visualization": [],
    "artifact": [],
    "labeled": [],
    "classification": ["TextClassifier"],
}
_HOME = {name: module for module, names in _ON_FIRST_USE.items() for name in names}

__all__ = [
    "DecoderBlock",
    "EncoderBlock",
    "FeedForward",
    "MultiHeadAttention",
    "TokenPositionEmbedding",
    "attention_distribution",
    "attention_weights",
    "causal_mask",
    "generate",
    "lstm_classifier",
    "lstm_seq2seq",
    "padding_mask",
    "positional_encoding",
    "scaled_dot_product_attention",
    "transformer",
    "transformer_classifier",
    *_ON_FIRST_USE,
    *_HOME,
]


def __getattr__(name):
    if name not in _HOME and name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'companion' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"companion.{_HOME.get(name, name)}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("companion"):
            raise
        raise ImportError(
            f"companion.{name} needs {error.name}, which the extra 'tools' brings: "
            "pip install '.[tools]' in companion's folder."
        ) from error
    return getattr(module, name) if name in _HOME else module


def __dir__():
    return sorted(__all__)
