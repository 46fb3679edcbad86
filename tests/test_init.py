"""The package itself: every public name on first use; the layers with Keras and NumPy alone."""

import ast
import importlib
import inspect
import sys
from pathlib import Path

import pytest

import companion

FOLDER = Path(companion.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__"))
# What modules lend one another, reached through them only.
LENT = {
    "tokenizer": {"checked_text", "checked_texts", "printable", "tokenizer_file"},
    "subwords": {"ngram_hash", "ngram_rows", "ngram_table"},
    "word_scores": {"solved"},
    "download": {"download"},  # called like its module
    "encoder": {"Block", "activation_named", "gelu_tanh", "normalization"},
    "classifiers": {"class_probabilities", "mean_of_real"},
    "artifact": {"swap", "left_behind", "reading_artifact"},
    "generation": {"text_pieces"},
    "pretraining": {"vocabulary_head"},
    "pretrained_tokenizer": {"special_ids"},
    "sentencepiece_files": {"read_sentencepiece"},
    "visualization": {"confusion_matrix"},  # draws what that of evaluation counts
    "written": {"json_rows", "table_rows"},
    "stories": {"answer_units", "sentences"},
    "conversations": {"exchanges"},
    "careful_sets": {"Note"},  # one of `melody` is called the same
    "text_quality": {"tokens"},
    "retrieval": {"fuse", "ranks_of", "search", "unit_length"},
    "scenes": {"chinese_caption", "english_caption", "render"},
    "melody": {"Note", "read_note", "write_note", "encode", "decode", "transposed"}
    | {"moves", "longest_copied"},
    "dialogue": {"features", "language_of"},
    "recommendation": {"Recommender"},
    "review": {"filled", "one_of", "share"},
    "entities": {"look_up", "tag"},
    "preference": {"Step", "advantages", "answer_batch", "sample_answers", "scorer"},
    "federated": {"average"},
    "privacy": {"cross_entropy"},  # per example; that of evaluation is a mean
    "attribution": {"rollout"},
    "fairness": {"augmented", "swap_words"},
    "model_card": {"Measurement", "missing_sections", "model_card"},  # called like its module
    "bibliography": {"Entry", "is_isbn"},
    "applications": {"Attention"},
    "serving": {"Loaded", "Absent", "Limits", "Models", "Health", "serve"},
}
LENDERS = {"base", "prose", "sources", "labeled"}
# `WordVectors` and the functions that train them are the way to what these do.
LENDERS |= {"vector_streams", "fasttext_files", "word2vec_files", "vector_files"}
LENDERS |= {"decoding", "search", "prompts"}  # of `generate`; those of `load_pretrained`:
LENDERS |= {"checkpoint_files", "weight_maps", "checkpoint_families", "checkpoint_configs"}
LENDERS |= {"drawing", "rounds", "saved_model", "own_data", "batching", "guard", "service", "endpoints"}
LENDERS |= {"training_command", "commands", "doctor"}
LENDERS |= {"word_corpus", "adagrad", "negative_sampling", "cooccurrence"}


def public_names(module):
    tree = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("module", [module for module in MODULES if module not in LENDERS])
def test_everything_public_is_had_from_the_package(module):
    lent = LENT.get(module, set())
    assert lent <= public_names(module)
    for name in public_names(module) - lent:
        assert name in companion.__all__, f"{module}.{name}"
        assert getattr(companion, name) is getattr(importlib.import_module(f"companion.{module}"), name)


def test_what_is_promised_is_there_once():
    assert len(set(companion.__all__)) == len(companion.__all__)
    assert dir(companion) == sorted(companion.__all__)
    for name in companion.__all__:
        assert getattr(companion, name) is not None
    assert inspect.ismodule(companion.download) and inspect.ismodule(companion.sources)


def test_an_unknown_name_is_named():
    with pytest.raises(AttributeError, match=r"module 'companion' has no attribute 'atention'"):
        companion.atention  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'atention' from 'companion'"):
        from companion import atention  # noqa: F401


LAYERS_ALONE = """
import sys
tools = "babel filelock jieba matplotlib nltk PIL platformdirs sacrebleu seaborn sklearn spacy tokenizers"
sys.modules.update(dict.fromkeys(tools.split() + ["tqdm"]))  # an import of one of them now fails
import companion
"""


@pytest.mark.backend
def test_layers_and_models_need_no_tools(fresh_python):
    fresh_python(
        LAYERS_ALONE + "import numpy as np\n"
        "model = companion.transformer_classifier(10, 2, 4, 8, 2, 16, 1)\n"
        "assert model(np.array([[4, 5]])).shape == (1, 2)\n"
        "assert companion.attention_weights(model, np.array([[4, 5]]))['encoder_0'].shape == (1, 2, 2, 2)\n"
        "assert 'WordTokenizer' in dir(companion)\n"
    )


def test_what_needs_the_tools_says_which_and_where_they_come_from(fresh_python):
    code = LAYERS_ALONE + (
        "for name in ('visualization', 'vector_map', 'translation_pairs', 'cache_folder'):\n"
        "    try:\n"
        "        getattr(companion, name)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    advice = "which the extra 'tools' brings: pip install '.[tools]' in companion's folder."
    needs = {"visualization": "matplotlib", "vector_map": "matplotlib", "translation_pairs": "babel"}
    needs["cache_folder"] = "platformdirs"
    printed = fresh_python(code, KERAS_BACKEND="numpy").splitlines()
    assert printed == [f"companion.{name} needs {package}, {advice}" for name, package in needs.items()]


def test_what_the_server_needs_is_another_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for module in ("serving", "endpoints"):
        monkeypatch.delitem(sys.modules, f"companion.{module}", raising=False)
    with pytest.raises(
        ImportError, match=r"companion\.create_app needs fastapi, which the extra 'serve' brings"
    ):
        companion.create_app  # noqa: B018


def test_a_fault_of_our_own_is_not_blamed_on_the_tools(monkeypatch):
    monkeypatch.setitem(companion._ON_FIRST_USE, "no_such_module", "")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'companion\.no_such_module'"):
        companion.no_such_module  # noqa: B018
