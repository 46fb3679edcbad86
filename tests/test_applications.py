"""Trained models as folders: the same texts as `generate` by hand, streamed, saved, found, refused."""

import json
import shutil

import keras
import numpy as np
import pytest

from companion import (
    SubwordTokenizer,
    TextClassifier,
    WordVectors,
    attention_weights,
    generate,
    gpt,
    transformer,
)
from companion.applications import (
    BATCHES,
    TextGenerator,
    Translator,
    find_applications,
    load_application,
    models_folder,
)

ENGLISH = ["one red house", "two green trees", "a small garden", "three red trees", "one small house", "two"]
CHINESE = ["一座红房子", "两棵绿树", "一个小花园", "三棵红树", "一座小房子", "二"]
SIZES = {"model_dim": 16, "num_heads": 2, "hidden_dim": 16, "dropout": 0.0}


def tokenizer(texts):
    return SubwordTokenizer.train(texts, vocabulary_size=280)


@pytest.fixture(scope="module")
def translator(randomized):
    keras.utils.set_random_seed(0)
    source, target = tokenizer(ENGLISH), tokenizer(CHINESE)
    model = transformer(source.vocabulary_size, target.vocabulary_size, max_length=24, num_layers=2, **SIZES)
    return Translator(randomized(model), source, target, max_source_length=20, max_length=12)


@pytest.fixture(scope="module")
def generator(randomized):
    keras.utils.set_random_seed(0)
    words = tokenizer(ENGLISH + CHINESE)
    model = gpt(words.vocabulary_size, max_length=24, num_layers=1, **SIZES)
    return TextGenerator(randomized(model), words, max_length=24)


@pytest.fixture(scope="module")
def folder(translator, generator, tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    translator.save(path / "translation")
    generator.save(path / "text")
    WordVectors(["red", "green"], np.eye(2, dtype="float32")).save(path / "vectors.txt.gz")
    classifier = TextClassifier("lstm", min_count=1, max_length=5, model_dim=4, hidden_dim=4)
    classifier.fit(ENGLISH, ["a", "b"] * 3, epochs=1, progress=False, validation_fraction=0.25)
    classifier.save(path / "classifier")
    return path


def by_hand(translator, texts, **settings):
    sources = translator.source_tokenizer.encode_batch(texts, length=translator.max_source_length)
    return generate(translator.model, sources, max_length=translator.max_length, **settings)


# Translator


@pytest.mark.parametrize("beam_size", [1, 3])
def test_translations_are_those_of_generate(translator, beam_size):
    settings = {"strategy": "beam", "beam_size": 3} if beam_size > 1 else {}
    written = by_hand(translator, ENGLISH, **settings)
    expected = translator.target_tokenizer.decode_batch(written)
    assert translator.translate(ENGLISH, beam_size=beam_size) == expected
    assert len(set(expected)) > 1


def test_any_number_of_texts_is_translated_in_few_sizes_only(translator, monkeypatch):
    sizes, write = [], generate

    def counting(model, prompts, **settings):
        sizes.append(len(prompts))
        return write(model, prompts, **settings)

    alone = {text: translator.translate([text])[0] for text in ENGLISH}
    monkeypatch.setattr("companion.applications.generate", counting)
    many = [ENGLISH[i % len(ENGLISH)] for i in range(BATCHES[-1] + 1)]
    assert translator.translate(iter(many)) == [alone[text] for text in many]
    for few in (many[:3], many[:5]):
        assert translator.translate(few) == [alone[text] for text in few]
    assert sizes == [16, 1, 4, 16] and translator.translate([]) == []


def test_attention_is_what_each_written_token_was_chosen_with(translator):
    (written,) = by_hand(translator, [text := ENGLISH[0]])
    attention = translator.attention(text)
    source = translator.source_tokenizer.encode(text)
    assert attention.source_tokens == translator.source_tokenizer.tokens(source)
    assert attention.target_tokens == translator.target_tokenizer.tokens(written)
    given = np.array([[translator.target_tokenizer.begin_id, *written[:-1]]])
    blocks = attention_weights(translator.model, [np.array([source]), given])
    for layer, weights in enumerate(attention.weights):
        np.testing.assert_array_equal(weights, blocks[f"decoder_{layer}"][1][0])
    assert attention.weights.shape == (2, 2, len(written), len(source))
    np.testing.assert_allclose(attention.weights.sum(axis=-1), 1, atol=1e-6)
    logits = np.asarray(translator.model([np.array([source]), given]))[0]
    allowed = [i for i in range(logits.shape[1]) if i not in (0, 2)]
    assert [allowed[i] for i in logits[:, allowed].argmax(axis=1)] == list(written)


def test_attention_of_a_given_translation_ends_with_the_end(translator):
    attention = translator.attention("two green trees", "绿树")
    tokens = translator.target_tokenizer.tokens(translator.target_tokenizer.encode("绿树"))
    assert attention.target_tokens == [*tokens, "<end>"]
    other = translator.attention("two green trees", "绿花")
    same = next(i for i, (a, b) in enumerate(zip(tokens, other.target_tokens, strict=False)) if a != b)
    np.testing.assert_allclose(
        attention.weights[:, :, : same + 1], other.weights[:, :, : same + 1], atol=1e-6
    )
    assert np.abs(attention.weights[:, :, -1] - other.weights[:, :, -1]).max() > 1e-4
    assert translator.attention("two", "").target_tokens == ["<end>"]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("one", TypeError, "texts must be a list of strings; received str"),
        (["one", 2], TypeError, r"texts\[1\] must be a string; received int"),
        (["one", " \n"], ValueError, r"texts\[1\] must not be empty; received texts\[1\]=' \\n'"),
        (["\ud800"], ValueError, "lone surrogate"),
        (["a", "x" * 21], ValueError, r"texts\[1\] must have at most max_source_length=20 tokens.* of 21"),
    ],
)
def test_bad_texts_are_refused(translator, texts, error, message):
    with pytest.raises(error, match=message):
        translator.translate(texts)


def test_bad_arguments_of_a_translator_are_refused(translator):
    assert translator.translate(["x" * 20])  # the limit itself
    with pytest.raises(ValueError, match="beam_size must be at least 1; received beam_size=0"):
        translator.translate(["one"], beam_size=0)
    with pytest.raises(ValueError, match="translation must have at most 11 tokens.* received one of 12"):
        translator.attention("one", "x" * 12)
    with pytest.raises(ValueError, match="text must have at most max_source_length=20 tokens"):
        translator.attention("x" * 21)
    model, source, target = translator.model, translator.source_tokenizer, translator.target_tokenizer
    with pytest.raises(ValueError, match="max_source_length must be at most what the .* reads, 24; rec.*25"):
        Translator(model, source, target, max_source_length=25)
    with pytest.raises(ValueError, match="max_length must be at least 1; received max_length=0"):
        Translator(model, source, target, max_source_length=20, max_length=0)
    with pytest.raises(ValueError, match="target_tokenizer must have at most the model's"):
        Translator(model, source, SubwordTokenizer.train(ENGLISH * 9 + CHINESE * 9, 400), 20, 12)


def test_a_model_of_another_kind_is_refused(translator, generator):
    words = generator.tokenizer
    with pytest.raises(ValueError, match="model must have 2 inputs .* blocks; received 'gpt' with 1 and 1"):
        Translator(generator.model, words, words)
    with pytest.raises(ValueError, match="model must have 1 inputs .* blocks; received 'transformer'"):
        TextGenerator(translator.model, words, 12)


# TextGenerator

WAYS = [{"temperature": 0}, {"seed": 5}, {"seed": 5, "temperature": 0.7, "top_p": 0.8}]


@pytest.mark.parametrize("way", WAYS, ids=["greedy", "sample", "nucleus"])
def test_texts_are_those_of_generate_and_stream(generator, way):
    chosen = {} if way == WAYS[0] else {"strategy": "sample"} | way
    prompts = ["one red", "两棵", "a"]
    expected = []
    for prompt in prompts:
        ids = [generator.tokenizer.encode(prompt)]
        (row,) = generate(generator.model, ids, max_length=10, **chosen)
        expected.append(generator.tokenizer.decode(row))
    assert generator.complete(prompts, max_new_tokens=10, **way) == expected
    for prompt, text in zip(prompts, expected, strict=True):
        pieces = list(generator.stream(prompt, max_new_tokens=10, **way))
        assert "".join(pieces) == text and all(pieces)


def test_seeds(generator):
    def written(seed):
        return generator.complete(["one", "two", "one"], max_new_tokens=12, seed=seed)

    assert written(1) == written(1) != written(2)
    assert written(1)[0] == written(1)[2]  # alone or among others
    assert len({tuple(written(None)) for _ in range(3)}) > 1


def test_the_last_tokens_of_a_long_prompt_are_read(generator):
    ids = generator.tokenizer.encode(" ".join(ENGLISH * 3))
    assert len(ids) > 24
    (row,) = generate(generator.model, [ids[-14:]], max_length=10)
    (text,) = generator.complete([" ".join(ENGLISH * 3)], max_new_tokens=10, temperature=0)
    assert text == generator.tokenizer.decode(row)
    assert generator.complete(["one"], max_new_tokens=23)  # one token is left to read


def test_pieces_hold_whole_characters(generator, monkeypatch):
    ids = generator.tokenizer.encode("树é🙂")
    monkeypatch.setattr("companion.applications.stream", lambda *_, **__: iter([(i,) for i in ids]))
    assert "".join(pieces := list(generator.stream("one", max_new_tokens=5))) == "树é🙂"
    assert not [piece for piece in pieces if "\ufffd" in piece]
    monkeypatch.setattr("companion.applications.stream", lambda *_, **__: iter([(i,) for i in ids[:-1]]))
    cut = generator.tokenizer.decode(ids[:-1])  # inside the last character
    assert "".join(generator.stream("one", max_new_tokens=5)) == cut


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 24}, "max_new_tokens must be from 1 to 23, .* received max_new_tokens=24"),
        ({"max_new_tokens": 0}, "max_new_tokens must be from 1 to 23"),
        ({"temperature": -1.0}, "temperature must be from 1e-30 to 1e30; received temperature=-1.0"),
        ({"top_p": 0.0}, "top_p must be None, or above 0 and at most 1"),
        ({"top_p": 2, "temperature": 0}, "top_p must be None, or above 0 and at most 1"),
    ],
)
def test_bad_settings_are_refused_at_once(generator, settings, message):
    settings = {"max_new_tokens": 5} | settings
    with pytest.raises(ValueError, match=message):
        generator.complete(["one"], **settings)
    with pytest.raises(ValueError, match=message):
        generator.stream("one", **settings)


def test_bad_prompts_are_refused(generator):
    with pytest.raises(TypeError, match="prompts must be a list of strings; received str"):
        generator.complete("one", max_new_tokens=3)
    with pytest.raises(ValueError, match=r"prompts\[0\] must not be empty"):
        generator.complete([""], max_new_tokens=3)
    with pytest.raises(ValueError, match="prompt must not be empty; received prompt=' '"):
        generator.stream(" ", max_new_tokens=3)
    with pytest.raises(ValueError, match="max_length must be at least 2; received max_length=1"):
        TextGenerator(generator.model, generator.tokenizer, 1)
    with pytest.raises(ValueError, match="max_length must be at most what the model reads, 24"):
        TextGenerator(generator.model, generator.tokenizer, 25)


# folders


def test_saved_and_loaded_they_write_the_same_also_in_a_fresh_process(
    translator, generator, folder, fresh_python
):
    translations = translator.translate(ENGLISH)
    texts = generator.complete(["one red"], max_new_tokens=10, seed=3)
    assert Translator.load(folder / "translation").translate(ENGLISH) == translations
    loaded = TextGenerator.load(folder / "text")
    assert loaded.complete(["one red"], max_new_tokens=10, seed=3) == texts
    assert (loaded.max_length, translator.max_source_length, translator.max_length) == (24, 20, 12)
    printed = fresh_python(f"""
import json
from companion.applications import load_application
translator, generator = (load_application({str(folder)!r} + name) for name in ("/translation", "/text"))
print(json.dumps([translator.translate({ENGLISH!r}),
    generator.complete(["one red"], max_new_tokens=10, seed=3),
    translator.attention({ENGLISH[1]!r}).weights.tolist()]))""")
    *written, weights = json.loads(printed.splitlines()[-1])
    assert written == [translations, texts]
    np.testing.assert_allclose(weights, translator.attention(ENGLISH[1]).weights, atol=1e-5)


def test_numpys_numbers_are_saved_plain(generator, tmp_path):
    TextGenerator(generator.model, generator.tokenizer, np.int64(12)).save(tmp_path / "saved")
    assert TextGenerator.load(tmp_path / "saved").max_length == 12


def test_applications_are_found_and_loaded_by_their_kind(folder):
    found = find_applications(folder)
    assert found == {
        "classifier": folder / "classifier",
        "text": folder / "text",
        "translation": folder / "translation",
        "vectors": folder / "vectors.txt.gz",
    }
    kinds = [type(load_application(path)).__name__ for path in found.values()]
    assert kinds == ["TextClassifier", "TextGenerator", "Translator", "WordVectors"]
    assert find_applications(folder / "text") == {"text": folder / "text"}
    assert find_applications(folder / "vectors.txt.gz") == {"vectors": folder / "vectors.txt.gz"}


def test_what_is_no_application_is_not_found(folder, tmp_path):
    for name, config in {
        "other": '{"kind": "companion.Checkpoint"}',
        "broken": "{",
        "list": '{"kind": []}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config, encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"")
    shutil.copytree(folder / "text", tmp_path / ".text-being-written")
    assert find_applications(tmp_path) == find_applications(tmp_path / "absent") == {}
    shutil.copytree(folder / "text", tmp_path / "vectors")
    shutil.copy(folder / "vectors.txt.gz", tmp_path)
    assert list(find_applications(tmp_path)) == ["vectors", "vectors.txt.gz"]  # no name is lost


def test_loading_refuses_what_is_damaged_newer_or_something_else(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a trained model \(companion.TextClassifier, .* no "):
        load_application(tmp_path / "absent")
    with pytest.raises(ValueError, match="hold a companion.Translator; .* says 'companion.TextGenerator'"):
        Translator.load(folder / "text")
    shutil.copytree(folder / "text", copy := tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    for changed, message in (
        ({"version": 2}, "newer companion"),
        ({"kind": "x"}, "trained model .* says 'x'"),
    ):
        (copy / "config.json").write_text(json.dumps(config | changed), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            load_application(copy)
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (copy / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="damaged: tokenizer.json is missing or not as it was saved"):
        load_application(copy)


def test_a_tokenizer_that_could_not_be_loaded_is_not_saved(generator, tmp_path):
    class Foreign:
        vocabulary_size = generator.tokenizer.vocabulary_size

        def __getattr__(self, name):
            return getattr(generator.tokenizer, name)

    other = TextGenerator(generator.model, Foreign(), generator.max_length)
    assert other.complete(["the"], max_new_tokens=2)
    with pytest.raises(TypeError, match="tokenizer must be a WordTokenizer or a SubwordTokenizer .* Foreign"):
        other.save(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_saving_spares_a_folder_of_something_else(translator, folder, tmp_path):
    shutil.copytree(folder / "text", copy := tmp_path / "copy")
    with pytest.raises(FileExistsError, match="new, empty or hold a companion.Translator"):
        translator.save(copy)
    assert load_application(copy).max_length == 24


def test_models_folder_lies_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path))
    assert models_folder() == tmp_path / "models"
