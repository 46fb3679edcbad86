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
from companion.base import Dropout
from companion.captioning import ImageCells, caption_batches, captioner
from companion.classifiers import lstm_classifier, transformer_classifier
from companion.decoder import DecoderBlock
from companion.embedding import RelativePositionBias, TokenPositionEmbedding, positional_encoding
from companion.encoder import EncoderBlock, FeedForward
from companion.finetuning import GroupedAdamW, fine_tune, freeze, layer_decay, trainable_parameters
from companion.generation import generate, stream
from companion.heads import best_span, classifier, span_finder, tagger
from companion.inspection import attention_weights, logit_lens, stacked_weights
from companion.lora import (
    LoRADecoderBlock,
    LoRADense,
    LoRAEncoderBlock,
    add_lora,
    load_trainable,
    merge_lora,
    save_trainable,
)
from companion.lstm import lstm_language_model, lstm_seq2seq
from companion.models import bert, gpt, t5, transformer
from companion.pretraining import Pretrainer, WarmupCosine, WarmupInverseSqrt, chunked_cross_entropy
from companion.retrieval import UnitLength, WeightedMean, hit_rate, in_batch_loss, mean_reciprocal_rank, ndcg

__version__ = "0.1.0"

# What modules only lend one another is reached through them, and so is what would take another's name: the
# function of the module download; confusion_matrix of visualization, which draws what evaluation's counts.
_ON_FIRST_USE = {
    "cache": "cache_folder",
    "tokenizer": "Tokenizer",
    "text": "SubwordTokenizer WordTokenizer load_tokenizer",
    "splits": "Splits near_duplicates normalize random_split split split_of",
    "prose": "",
    "download": "Dataset DownloadError extract",
    "sources": "",
    "library": "Basket Color DefaultValue Docstring Rule SeeAlso Topic "
    "colors default_values docstrings eliza import_baskets see_also topics",
    "parallel": "Name Pair interface_strings language_names translation_pairs",
    "data": "Example library_classification sequence_batches text_batches",
    "written": "Opinion read_sentiment",
    "stories": "Question Story answer_f1 answer_match read_stories",
    "conversations": "Dialogue Preference Turn read_dialogues read_preferences",
    "careful_sets": "Clause Entity Exercise Message read_clauses read_exercises read_messages read_notes",
    "grammar": "Construction Grammar grammar_pairs read_grammar",
    "ngrams": "KneserNey",
    "subwords": "Subwords character_ngrams",
    "vector_streams": "",
    "fasttext_files": "",
    "word2vec_files": "",
    "vector_files": "",
    "word_scores": "AnalogyScore SimilarityScore read_analogies read_similarities",
    "vectors": "WordVectors",
    "word_corpus": "",
    "adagrad": "",
    "negative_sampling": "",
    "cooccurrence": "",
    "word_vectors": "fasttext glove word2vec",
    "evaluation": "accuracy bleu chrf confidence_interval confusion_matrix cross_entropy exact_match "
    "macro_f1 perplexity perplexity_from_loss",
    "drawing": "",
    "visualization": "attention_heatmap chinese_font font_families head_grid positional_encoding_map "
    "set_style training_curves vector_map",
    "token_maps": "attribution_map logit_lens_map",
    "explorer": "AttentionExplorer attention_explorer",
    "flowchart": "Edge Flowchart Node dead_ends draw_flowchart parse_flowchart",
    "artifact": "load_artifact save_artifact",
    "objectives": "mask_tokens masked_per_row restore_spans span_corruption span_counts",
    "batches": "causal_batches masked_batches pack span_batches",
    "training": "Checkpoint Progress",
    "checkpoint_files": "",
    "pretrained_tokenizer": "PretrainedTokenizer",
    "sentencepiece_files": "SentencePieceTokenizer",
    "weight_maps": "",
    "checkpoint_families": "",
    "checkpoint_configs": "",
    "pretrained": "load_pretrained save_pretrained",
    "labeled": "",
    "rounds": "",
    "classification": "TextClassifier",
    "abstention": "RiskCoverage SelectiveAccuracy risk_coverage selective_accuracy threshold_for",
    "review": "read_review write_review",
    "text_quality": "distinct_n repetition_rate rouge",
    "scenes": "Scene Thing attribute_accuracy color_shape_pairs draw_scenes",
    "melody": "Melody Tune artificial_tune read_melodies synthesize to_wav",
    "dialogue": "Assistant Passage Reply docstring_passages eliza_reply reply_passages threshold_at "
    "weights_hash",
    "recommendation": "ContentSimilarity ItemKNN NextItem Popularity basket_matrix basket_model "
    "held_out_ranks leave_one_out recommend text_towers",
    "entities": "Marked known_names marked_sentences span_f1 train_tagger",
    "bibliography": "read_bibliography",
    "preference": "dpo_loss reinforce reinforce_loss sequence_log_probability",
    "federated": "ServerState Update federated_round local_client",
    "privacy": "PrivateTrainer clip_per_example exposure per_example_gradients privacy_budget "
    "renyi_divergence",
    "attribution": "attention_rollout gradient_times_input integrated_gradients occlusion",
    "fairness": "CounterfactualGap counterfactual_gap",
    "model_card": "",
    "scaling": "PowerLaw fit_power_law power_law_interval",
    "compute": "batch_flops gpt_parameters pf_days training_days training_flops",
    "saved_model": "",
    "applications": "TextGenerator Translator find_applications load_application models_folder",
    "own_data": "",
    "batching": "",
    "guard": "",
    "service": "",
    "endpoints": "",
    "serving": "create_app running",
    "training_command": "",
    "commands": "",
    "doctor": "",
}
_HOME = {name: module for module, names in _ON_FIRST_USE.items() for name in names.split()}

__all__ = [
    "DecoderBlock",
    "Dropout",
    "EncoderBlock",
    "FeedForward",
    "GroupedAdamW",
    "ImageCells",
    "LoRADecoderBlock",
    "LoRADense",
    "LoRAEncoderBlock",
    "MultiHeadAttention",
    "Pretrainer",
    "RelativePositionBias",
    "TokenPositionEmbedding",
    "UnitLength",
    "WarmupCosine",
    "WarmupInverseSqrt",
    "WeightedMean",
    "add_lora",
    "attention_distribution",
    "attention_weights",
    "bert",
    "best_span",
    "caption_batches",
    "captioner",
    "causal_mask",
    "chunked_cross_entropy",
    "classifier",
    "fine_tune",
    "freeze",
    "generate",
    "gpt",
    "hit_rate",
    "in_batch_loss",
    "layer_decay",
    "load_trainable",
    "logit_lens",
    "lstm_classifier",
    "lstm_language_model",
    "lstm_seq2seq",
    "mean_reciprocal_rank",
    "merge_lora",
    "ndcg",
    "padding_mask",
    "positional_encoding",
    "save_trainable",
    "scaled_dot_product_attention",
    "span_finder",
    "stacked_weights",
    "stream",
    "t5",
    "tagger",
    "trainable_parameters",
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
        extra = "serve" if error.name in ("fastapi", "pydantic", "uvicorn") else "tools"
        raise ImportError(
            f"companion.{name} needs {error.name}, which the extra '{extra}' brings: "
            f"pip install '.[{extra}]' in companion's folder."
        ) from error
    return getattr(module, name) if name in _HOME else module


def __dir__():
    return sorted(__all__)
