"""Checkpoints on disk and on a hub: what is written is read back, what is wrong is refused by name."""

import hashlib
import http.server
import json
import os
import re
import shutil
import struct
import threading

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from companion import bert, gpt, lstm_language_model, t5, transformer
from companion.checkpoint_files import INDEX, WEIGHTS, checkpoint_folder
from companion.pretrained import load_pretrained, save_pretrained

pytestmark = pytest.mark.backend

TOKENS = np.array([[5, 3, 8, 1, 2, 7, 4], [2, 9, 4, 0, 0, 0, 0], [6, 1, 1, 3, 9, 0, 0]], "int32")
TARGET = np.array([[2, 5, 7, 3], [2, 6, 1, 0], [2, 4, 8, 9]], "int32")
SEGMENTS = np.array([[0, 0, 1, 1, 1, 1, 1], [0] * 7, [0, 1, 1, 1, 1, 0, 0]], "int32")
PAIR = [TOKENS, TARGET]
MARIAN = {"shared": True, "norm_first": False, "epsilon": 1e-5, "positions": "sinusoidal_halves"}
MAKERS = {
    "gpt": (lambda: gpt(11, 9, 6, 3, 10, 2, activation="relu"), [TOKENS]),
    "bert": (lambda: bert(11, 9, 6, 3, 10, 2, num_segments=3), [TOKENS, SEGMENTS]),
    "bert encoder": (
        lambda: bert(11, 9, 6, 3, 10, 1, pooler=False, masked_lm=False, epsilon=1e-6),
        [TOKENS, SEGMENTS],
    ),
    "bert padding": (lambda: bert(11, 9, 6, 3, 10, 1, padding_id=3), [TOKENS, SEGMENTS]),
    "t5": (lambda: t5(11, 6, 3, 10, 1, 2, head_dim=5, num_buckets=8, max_distance=20), PAIR),
    "t5 v1.1": (lambda: t5(11, 6, 3, 10, 2, activation="gelu_tanh", gated=True, tied=False), PAIR),
    "marian": (
        lambda: transformer(
            *(11, 11, 9, 6, 3, 10, 1),
            activation="silu",
            num_decoder_layers=2,
            decoder_num_heads=2,
            decoder_hidden_dim=7,
            padding_id=9,
            **MARIAN,
        ),
        PAIR,
    ),
}
FAMILIES = ["gpt", "bert", "t5", "marian"]
each_model = pytest.mark.parametrize("name", MAKERS)
each_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def models(randomized):
    return {name: randomized(make()) for name, (make, _) in MAKERS.items()}


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    """One written checkpoint for each model; not to be changed."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, model in models.items():
        save_pretrained(root / name, model)
    return {name: root / name for name in models}


@pytest.fixture
def copied(folders, tmp_path):
    """A function that copies a checkpoint and changes its config and its tensors."""

    def copy(name, config=(), **tensors):
        folder = shutil.copytree(folders[name], tmp_path / "copy", dirs_exist_ok=True)
        fields = json.loads((folder / "config.json").read_text()) | dict(config)
        (folder / "config.json").write_text(json.dumps(fields))
        if tensors:
            changed = load_file(folder / WEIGHTS) | {key.replace("__", "."): x for key, x in tensors.items()}
            save_file({key: x for key, x in changed.items() if x is not None}, folder / WEIGHTS)
        return folder

    return copy


def loaded(folder):
    return load_pretrained(folder, tokenizer=False)[0]


def outputs(model, name):
    inputs = MAKERS[name][1]
    results = keras.tree.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=False))
    return [keras.ops.convert_to_numpy(x) for x in results]


def refusal(folder):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        loaded(folder)
    return str(caught.value)


@each_model
def test_what_is_written_is_read_back(name, models, folders):
    model = loaded(folders[name])
    assert [w.path for w in model.weights] == [w.path for w in models[name].weights]
    for ours, saved in zip(model.weights, models[name].weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), saved.numpy())
    for ours, saved in zip(outputs(model, name), outputs(models[name], name), strict=True):
        np.testing.assert_array_equal(ours, saved)


@each_model
def test_inputs_may_be_a_dictionary_or_a_list_in_order(name, folders):
    model = loaded(folders[name])
    order = {"gpt": ["tokens"], "bert": ["tokens", "segments"]}.get(
        name.split()[0], ["source_tokens", "target_tokens"]
    )
    inputs = MAKERS[name][1]
    by_name = keras.tree.flatten(model(dict(zip(order, inputs, strict=True)), training=False))
    for ours, listed in zip(by_name, outputs(model, name), strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), listed)


@each_family
def test_weights_trained_and_saved_by_keras_are_written_too(name, models, folders, tmp_path):
    models[name].save(tmp_path / "model.keras")
    save_pretrained(tmp_path / "again", keras.saving.load_model(tmp_path / "model.keras"))
    for file in ("config.json", WEIGHTS):
        assert (tmp_path / "again" / file).read_bytes() == (folders[name] / file).read_bytes()


@each_family
def test_tensors_in_half_precision_are_read(name, copied, models, tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    folder = copied(name)
    for dtype, tolerance in (("float16", 1e-3), (ml_dtypes.bfloat16, 1e-2), ("float64", 0)):
        halves = {key: x.astype(dtype) for key, x in load_file(folder / WEIGHTS).items()}
        save_file(halves, folder / WEIGHTS)
        for ours, saved in zip(loaded(folder).weights, models[name].weights, strict=True):
            np.testing.assert_allclose(ours.numpy(), saved.numpy(), rtol=tolerance, atol=1e-6)
            assert ours.dtype == "float32"
        shutil.copy(folder / WEIGHTS, tmp_path / "last")
        folder = copied(name)


@each_family
def test_shards(name, models, folders, tmp_path):
    save_pretrained(tmp_path / "shards", models[name], max_shard_size=1000)
    index = json.loads((tmp_path / "shards" / INDEX).read_text())
    whole = load_file(folders[name] / WEIGHTS)
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 2 and set(index["weight_map"].values()) == set(files)
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in whole.values())
    for file in files:
        held = load_file(tmp_path / "shards" / file)
        assert len(held) == 1 or sum(x.nbytes for x in held.values()) <= 1000
    for ours, saved in zip(
        outputs(loaded(tmp_path / "shards"), name), outputs(models[name], name), strict=True
    ):
        np.testing.assert_array_equal(ours, saved)


def test_wrong_shards_are_refused(models, tmp_path):
    folder = tmp_path / "shards"
    save_pretrained(folder, models["gpt"], max_shard_size=1000)
    index, first = json.loads((folder / INDEX).read_text()), folder / "model-00001-of-00004.safetensors"
    whole = first.read_bytes()

    def refused(message, weight_map=index["weight_map"]):
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        assert re.search(message, refusal(folder)), refusal(folder)

    first.unlink()
    refused("lists model-00001-of-00004.safetensors; there is no")
    first.write_bytes(whole[:-1])
    refused("model-00001-of-00004.safetensors is damaged or cut off")
    first.write_bytes(whole)
    refused("holds transformer.wrong; it does not", index["weight_map"] | {"transformer.wrong": first.name})
    refused(
        r"does not list transformer\.\S+, which its files hold", dict(list(index["weight_map"].items())[1:])
    )
    refused(
        "must list files beside it, .*; it lists '../x.safetensors'",
        {"transformer.wte.weight": "../x.safetensors"},
    )
    refused("must have a weight_map", {})
    (folder / INDEX).write_text("{")
    assert "index.json is damaged" in refusal(folder)
    (folder / INDEX).write_text(json.dumps(index))
    loaded(folder)


@given(data=st.data())
def test_a_truncated_file_is_refused(data, folders, tmp_path_factory):
    name = data.draw(st.sampled_from(FAMILIES))
    file = data.draw(st.sampled_from([WEIGHTS, "config.json"]))
    folder = tmp_path_factory.mktemp("cut") / "checkpoint"
    shutil.copytree(folders[name], folder)
    content = (folder / file).read_bytes().rstrip()
    (folder / file).write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert re.search(f"{file} (is damaged|must)", refusal(folder))


@given(data=st.data())
def test_a_damaged_header_is_refused_or_changes_nothing(data, folders, models, tmp_path_factory):
    name = data.draw(st.sampled_from(["gpt", "t5"]))
    folder = tmp_path_factory.mktemp("damaged") / "checkpoint"
    shutil.copytree(folders[name], folder)
    content = bytearray((folder / WEIGHTS).read_bytes())
    length = 8 + struct.unpack("<Q", content[:8])[0]
    place, byte = data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, 255))
    content[place] = byte
    (folder / WEIGHTS).write_bytes(content)
    try:
        model = loaded(folder)
    except ValueError:
        return
    for ours, saved in zip(model.weights, models[name].weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), saved.numpy())


NORM = "transformer__h__1__ln_2__weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({NORM: None}, r"lacks 1 tensors: h\.1\.ln_2\.weight \(6,\)\."),
        (
            {NORM: None, "transformer__wpe__weight": None},
            r"lacks 2 tensors: wpe\.weight \(9, 6\), h\.1\.ln_2",
        ),
        ({NORM: np.ones(7, "float32")}, r"transformer\.h\.1\.ln_2\.weight must have shape \(6,\); .* \(7,\)"),
        ({NORM: np.ones((6, 1), "float32")}, r"ln_2\.weight must have shape \(6,\); .* \(6, 1\)"),
        ({NORM: np.ones(6, "int64")}, r"transformer\.h\.1\.ln_2\.weight must hold one of .*; it holds I64"),
        (
            {"transformer__h__0__attn__c_attn__weight": np.ones((18, 6), "float32")},
            r"c_attn\.weight must have shape \(6, 18\); the checkpoint's has \(18, 6\)",
        ),
        (
            {"transformer__h__0__attn__bias_v": np.ones(2, "float32")},
            r"holds 1 tensors .*attn\.bias_v \(2,\)",
        ),
        (
            {"transformer__h__2__x": np.ones((2, 3), "float32")},
            r"holds 1 tensors .*transformer\.h\.2\.x \(2, 3\)",
        ),
        (
            {"wpe__weight": np.ones((9, 6), "float32")},
            r"once; it holds (transformer\.)?wpe.* and (transformer\.)?wpe",
        ),
        (
            {"lm_head__weight": np.ones((11, 6), "float32")},
            r"lm_head\.weight must hold the same numbers as transformer\.wte\.weight",
        ),
    ],
)
def test_wrong_tensors_are_refused(copied, tensors, message):
    assert re.search(message, refusal(copied("gpt", **tensors)))


@each_family
def test_every_tensor_is_needed_and_its_shape_is_checked(name, folders, copied):
    tensors = load_file(folders[name] / WEIGHTS)
    for key in list(tensors)[:: 1 + len(tensors) // 8]:
        short = re.sub(r"^(transformer|bert|model)\.(?!$)", "", key)
        assert f"lacks 1 tensors: {short} {tensors[key].shape}" in refusal(copied(name, **{key: None}))
        wrong = np.ones((*tensors[key].shape[:-1], tensors[key].shape[-1] + 1), "float32")
        message = refusal(copied(name, **{key: wrong}))
        assert f"{key} must have shape {tensors[key].shape}; the checkpoint's has {wrong.shape}" in message


def renamed(folder, rename):
    tensors = {rename(key): x for key, x in load_file(folder / WEIGHTS).items()}
    save_file({key: x for key, x in tensors.items() if key}, folder / WEIGHTS)
    return folder


def same(folder, models, name):
    for ours, saved in zip(loaded(folder).weights, models[name].weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), saved.numpy())


@pytest.mark.parametrize(
    ("name", "rename"),
    [
        ("gpt", lambda key: key.removeprefix("transformer.")),
        ("bert", lambda key: key.removeprefix("bert.")),
        ("marian", lambda key: key.removeprefix("model.")),
        (
            "bert",
            lambda key: key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"),
        ),
        ("gpt", lambda key: "lm_head.weight" if key == "transformer.wte.weight" else key),
        ("t5", lambda key: "decoder.embed_tokens.weight" if key == "shared.weight" else key),
        ("marian", lambda key: "lm_head.weight" if key == "model.shared.weight" else key),
        (
            "bert",
            lambda key: "cls.predictions.decoder.bias" if key == "cls.predictions.bias" else key,
        ),
    ],
)
def test_names_that_others_have_used(name, rename, copied, models):
    same(renamed(copied(name), rename), models, name)


def test_tensors_that_hold_no_weights_or_are_tied_are_allowed(copied, models, folders):
    one = np.ones((1, 1), "float32")
    gpt_table = load_file(folders["gpt"] / WEIGHTS)["transformer.wte.weight"]
    attention = "transformer__h__0__attn__"
    extra = {f"{attention}bias": one, f"{attention}masked_bias": one, "lm_head__weight": gpt_table}
    same(copied("gpt", **extra), models, "gpt")
    tensors = load_file(folders["bert"] / WEIGHTS)
    extra = {
        "bert__embeddings__position_ids": np.arange(9)[None],
        "cls__predictions__decoder__weight": tensors["bert.embeddings.word_embeddings.weight"],
        "cls__predictions__decoder__bias": tensors["cls.predictions.bias"],
        "cls__seq_relationship__weight": np.ones((2, 6), "float32"),
        "cls__seq_relationship__bias": np.ones(2, "float32"),
    }
    same(copied("bert", **extra), models, "bert")
    shared = load_file(folders["t5"] / WEIGHTS)["shared.weight"]
    unused = "decoder__block__0__layer__1__EncDecAttention__relative_attention_bias__weight"
    extra = {unused: np.ones((8, 3), "float32"), "encoder__embed_tokens__weight": shared}
    same(copied("t5", **extra, lm_head__weight=shared), models, "t5")


def test_stored_sinusoids_are_compared_with_ours(copied, models):
    sinusoids = models["marian"].get_layer("embedding").sinusoids
    key = "model__decoder__embed_positions__weight"
    same(copied("marian", **{key: sinusoids.astype("float16")}), models, "marian")
    message = refusal(copied("marian", **{key: sinusoids[:, ::-1].copy()}))
    assert "model.decoder.embed_positions.weight must hold sinusoids of shape (9, 6)" in message


def test_a_t5_that_is_tied_but_not_scaled(copied, models):
    """What transformers 5 makes of tie_word_embeddings=False."""
    config = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    model = loaded(copied("t5", config))
    scaled, ours = outputs(models["t5"], "t5")[0], outputs(model, "t5")[0]
    np.testing.assert_allclose(ours, scaled * 6**0.5, rtol=1e-4, atol=1e-5)
    assert "lacks 1 tensors: lm_head.weight" in refusal(copied("t5", {"tie_word_embeddings": False}))


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("gpt", {"model_type": "llama"}, "model_type must be one of gpt2, bert, t5, marian; .* 'llama'"),
        ("gpt", {"model_type": ["gpt2"]}, "model_type must be one of"),
        (
            "gpt",
            {"architectures": ["GPT2DoubleHeadsModel"]},
            "architectures must be one of GPT2Model.*DoubleHeads",
        ),
        ("gpt", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx must be False"),
        ("gpt", {"scale_attn_weights": False}, "scale_attn_weights must be True"),
        ("gpt", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn must be False"),
        ("gpt", {"add_cross_attention": True}, "add_cross_attention must be False"),
        ("gpt", {"tie_word_embeddings": False}, "tie_word_embeddings must be True in a gpt2"),
        ("gpt", {"activation_function": "mish"}, "activation_function must be one of gelu_new.*'mish'"),
        ("gpt", {"n_embd": "6"}, "n_embd must be a int in config.json; received '6'"),
        ("gpt", {"n_layer": True}, "n_layer must be a int in config.json; received True"),
        ("gpt", {"n_head": 4}, "num_heads must divide model_dim"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type must be absolute"),
        ("bert", {"is_decoder": True}, "is_decoder must be False"),
        ("bert", {"pruned_heads": {"0": [1]}}, "pruned_heads must be {}"),
        ("bert", {"pad_token_id": None}, "pad_token_id must be a int in config.json; received None"),
        (
            "bert",
            {"architectures": ["BertForSequenceClassification"]},
            "architectures must be .*SequenceClass",
        ),
        ("t5", {"feed_forward_proj": "gated-mish"}, "feed_forward_proj must be one of .*'mish'"),
        ("t5", {"is_encoder_decoder": False}, "is_encoder_decoder must be True"),
        ("t5", {"layer_norm_epsilon": "x"}, "layer_norm_epsilon must be a float"),
        (
            "marian",
            {"share_encoder_decoder_embeddings": False},
            "share_encoder_decoder_embeddings must be True",
        ),
        ("marian", {"decoder_vocab_size": 12}, "decoder_vocab_size must be vocab_size .* received 12"),
        ("marian", {"normalize_before": True}, "normalize_before must be False"),
        ("marian", {"scale_embedding": 1}, "scale_embedding must be a bool"),
    ],
)
def test_configs_that_ask_for_something_else_are_refused(name, config, message, copied):
    assert re.search(message, refusal(copied(name, config)))


def test_a_config_without_a_size_is_refused(copied):
    folder = copied("gpt")
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if k != "n_embd"}))
    assert refusal(folder) == "config.json must have n_embd; it does not."


def test_old_configs_may_leave_out_what_has_a_default(copied, models):
    folder = copied("gpt", {"n_inner": None})
    assert "c_fc.weight must have shape (6, 24)" in refusal(folder)
    defaults = (
        "scale_attn_weights",
        "resid_pdrop",
        "layer_norm_epsilon",
        "architectures",
        "tie_word_embeddings",
    )
    folder = copied("gpt")
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if k not in defaults}))
    same(folder, models, "gpt")


@pytest.mark.parametrize(
    ("name", "left_out", "attribute", "value"),
    [
        ("marian", "scale_embedding", lambda model: model.get_layer("embedding").scaled, False),
        ("gpt", "layer_norm_epsilon", lambda model: model.get_layer("decoder_norm").epsilon, 1e-5),
        ("bert", "layer_norm_eps", lambda model: model.get_layer("embedding_norm").epsilon, 1e-12),
        ("t5", "layer_norm_epsilon", lambda model: model.get_layer("decoder_norm").epsilon, 1e-6),
        (
            "t5",
            "relative_attention_max_distance",
            lambda model: model.get_layer("encoder_position_bias").max_distance,
            128,
        ),
        ("t5", "dropout_rate", lambda model: model.get_layer("decoder_0").dropout.rate, 0.1),
    ],
)
def test_defaults_are_those_of_transformers(name, left_out, attribute, value, copied):
    folder = copied(name)
    fields = json.loads((folder / "config.json").read_text())
    del fields[left_out]
    (folder / "config.json").write_text(json.dumps(fields))
    assert attribute(loaded(folder)) == value


def test_pickled_weights_are_refused(folders, tmp_path):
    shutil.copy(folders["gpt"] / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    message = refusal(tmp_path)
    assert "must have a model.safetensors" in message and "can execute code" in message
    assert "must have a config.json" in refusal(tmp_path.parent)


@pytest.mark.parametrize("name", ["no/such/folder", "./nowhere", "", "a b"])
def test_what_is_no_folder_and_no_name_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="must be a folder or the name of a model on the hub"):
        checkpoint_folder(name or tmp_path / "none")


def test_only_our_models_are_written(tmp_path):
    def refused(model, message, **arguments):
        with pytest.raises(ValueError, match=message):
            save_pretrained(tmp_path / "new", model, **arguments)

    sizes = 11, 11, 9, 6, 3, 10, 1
    refused(lstm_language_model(11, 4, 5), "model must be from gpt, bert, t5")
    refused(transformer(*sizes), "shared=True; received 'transformer'")
    refused(transformer(*sizes, shared=True), "norm_first must be False to save a transformer as a marian")
    refused(
        transformer(*sizes, **MARIAN | {"positions": "sinusoidal"}), "positions must be 'sinusoidal_halves'"
    )
    refused(transformer(*sizes, **MARIAN | {"epsilon": 1e-6}), "epsilon must be 1e-05")
    refused(gpt(11, 9, 6, 3, 10, 1, activation="elu"), "activation must be one of .*'elu'")
    refused(
        t5(11, 6, 3, 10, 1, activation="gelu", gated=True), "activation must be 'gelu_tanh' in a gated T5"
    )
    refused(gpt(11, 9, 6, 3, 10, 1), "max_shard_size must be at least 1", max_shard_size=0)
    model = gpt(11, 9, 6, 3, 10, 1)
    more = keras.layers.Dense(2, name="head")(model.output)
    refused(
        keras.Model(model.input, more, name="gpt"), "holds 2 weights that its family has not: head/kernel"
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(models, folders, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        save_pretrained(tmp_path, models["gpt"])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    shutil.copy(folders["gpt"] / WEIGHTS, tmp_path / "part")
    with pytest.raises(FileExistsError, match="is a file"):
        save_pretrained(tmp_path / "part", models["gpt"])
    (tmp_path / "part").unlink()
    for config in ("", "{}", "{"):  # weights, and a config of something else
        (tmp_path / "other").mkdir(exist_ok=True)
        shutil.copy(folders["gpt"] / WEIGHTS, tmp_path / "other")
        if config:
            (tmp_path / "other" / "config.json").write_text(config)
        with pytest.raises(FileExistsError, match="holds other files"):
            save_pretrained(tmp_path / "other", models["gpt"])
    with pytest.raises(FileExistsError, match="is a file"):
        save_pretrained(tmp_path / "notes.txt", models["gpt"])
    folder = shutil.copytree(folders["gpt"], tmp_path / "checkpoint")
    (folder / "README.md").write_text("mine")
    with pytest.raises(FileExistsError):
        save_pretrained(folder, models["t5"])


def test_a_checkpoint_is_replaced_whole_or_not_at_all(models, folders, tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint"
    save_pretrained(folder, models["gpt"], max_shard_size=1000)
    monkeypatch.setattr(
        "companion.checkpoint_files.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError())
    )
    with pytest.raises(OSError):
        save_pretrained(folder, models["t5"])
    monkeypatch.undo()
    same(folder, models, "gpt")
    save_pretrained(folder, models["t5"])
    same(folder, models, "t5")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        WEIGHTS,
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_written_files_are_as_others_expect_them(folders):
    with safe_open(folders["gpt"] / WEIGHTS, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_slice("transformer.h.0.attn.c_attn.weight").get_shape() == [6, 18]
    config = json.loads((folders["marian"] / "config.json").read_text())
    wanted = {"pad_token_id": 9, "decoder_start_token_id": 9, "activation_function": "silu", "d_model": 6}
    wanted |= {"encoder_layers": 1, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 7}
    wanted |= {"model_type": "marian", "architectures": ["MarianMTModel"], "scale_embedding": True}
    assert config | wanted == config
    config = json.loads((folders["t5 v1.1"] / "config.json").read_text())
    assert config["feed_forward_proj"] == "gated-gelu" and config["tie_word_embeddings"] is False
    assert config["d_kv"] == 2 and config["num_decoder_layers"] == 2


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download needs: /api/models/… and /…/resolve/…"""

    commit = "0123456789abcdef0123456789abcdef01234567"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.requests.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        if path == "/api/models/some/model/revision/main":
            return self.send({"id": "some/model", "sha": self.commit})
        if path == f"/api/models/some/model/tree/{self.commit}":
            files = [file for file in self.server.folder.iterdir() if file.is_file()]
            return self.send(
                [{"type": "file", "path": x.name, "size": x.stat().st_size, "oid": digest(x)} for x in files]
            )
        file = self.server.folder / path.rpartition("/")[2]
        if path == f"/some/model/resolve/{self.commit}/{file.name}" and file.is_file():
            return self.send(file.read_bytes(), ETag=f'"{digest(file)}"', **{"X-Repo-Commit": self.commit})
        self.send({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})

    def send(self, content, status=200, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def digest(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture
def hub(folders, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.requests = shutil.copytree(folders["gpt"], tmp_path / "hub"), []
    (server.folder / "pytorch_model.bin").write_bytes(b"never fetched")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_names_are_asked_of_the_hub_and_kept_for_offline_use(hub, tmp_path, fresh_python, folders):
    code = """
from companion.checkpoint_files import checkpoint_folder
for name in (["some/model"], ["some/model", "0123456789abcdef0123456789abcdef01234567"], ["some/other"]):
    try:
        print(checkpoint_folder(*name))
    except FileNotFoundError as error:
        print("refused:", error)
"""
    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    environment["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_port}"
    folder, again, refused = fresh_python(code, **environment, HF_HUB_OFFLINE="0").strip().split("\n", 2)
    assert again == folder
    for path in folders["gpt"].iterdir():
        with open(os.path.join(folder, path.name), "rb") as file:
            assert file.read() == path.read_bytes()
    assert any("/resolve/" in request for request in hub.requests)
    assert not any("pytorch_model" in request for request in hub.requests)
    assert "refused: some/other is neither a folder nor to be had from the hub" in refused
    hub.requests.clear()
    *again, refused = fresh_python(code, **environment, HF_HUB_OFFLINE="1").strip().split("\n", 2)
    assert again == [folder, folder]
    assert "it is not in the cache, and the hub is out of reach or HF_HUB_OFFLINE is set" in refused
    assert not hub.requests
