"""The errata of section 5: the article's own lines run and fail as recorded, then ours works."""

import ast
import importlib.metadata
import io
import re
import socket
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from packaging.specifiers import SpecifierSet

from companion import TextClassifier, WordTokenizer, lstm_classifier

if keras.backend.backend() != "tensorflow":
    pytest.skip("the article's program needs TensorFlow", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[1]
INSTALL = "pip install tensorflow numpy nltk spacy matplotlib seaborn"  # line 212
TRAINING = """
import tensorflow as tf
from tensorflow.keras.layers import Embedding, LSTM, Dense
from tensorflow.keras.models import Sequential
import nltk
from spacy.lang.en import English


nltk.download('punkt')



train_texts = ['I love programming', 'Python is great for data analysis', 'Machine learning is fascinating']


nlp = English()


def tokenize_texts(texts):
    tokenized_texts = [nlp(text).text for text in texts]
    return tokenized_texts


def convert_texts_to_indices(tokenized_texts):
    tokenizer = tf.keras.preprocessing.text.Tokenizer(char_level=False)
    tokenizer.fit_on_texts(tokenized_texts)
    sequences = tokenizer.texts_to_sequences(tokenized_texts)
    return sequences, tokenizer


sequences, tokenizer = convert_texts_to_indices(tokenize_texts(train_texts))


vocab_size = len(tokenizer.word_index) + 1
max_sequence_length = max(len(seq) for seq in sequences)
inputs = tf.keras.preprocessing.sequence.pad_sequences(sequences, maxlen=max_sequence_length)


labels = [1] * len(train_texts)


model = Sequential([
    Embedding(vocab_size, 64, input_length=max_sequence_length),
    LSTM(128, return_sequences=True),
    LSTM(128),
    Dense(1, activation='sigmoid')
])

model.compile(optimizer='adam', loss='binary_crossentropy', metrics=['accuracy'])


model.fit(inputs, labels, epochs=10, batch_size=16)


model.save('language_model.h5')
tokenizer.saveTokenizer('tokenizer.json')
"""
INFERENCE = """
model = tf.keras.models.load_model('language_model.h5')
tokenizer = tf.keras.utils.get_custom_objects()


test_texts = ['Data science is interesting', 'I hate programming']
test_sequences = tokenizer.texts_to_sequences(test_texts)
test_inputs = tf.keras.preprocessing.sequence.pad_sequences(test_sequences, maxlen=max_sequence_length)

predictions = model.predict(test_inputs)
predicted_labels = [1 if pred > 0.5 else 0 for pred in predictions.flatten()]

print(predicted_labels)
"""
# The article's lines by number, its comments left out.
LINES = dict(enumerate(TRAINING.splitlines()[1:], 228)) | dict(enumerate(INFERENCE.splitlines()[1:], 316))
EXAMPLES = ["I love programming", "I hate programming"] * 4, ["like", "dislike"] * 4


def execute(names, first, last=None):
    """Run lines of the article among these names."""
    exec("\n".join(LINES[number] for number in range(first, (last or first) + 1)), names)


def each_alone(*numbers):
    """A program that runs these lines of the article, each by itself, and prints what they raise."""
    return f"""
for line in {[LINES[number] for number in numbers]!r}:
    try:
        exec(line)
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}")
"""


def offline(*_, **__):
    raise socket.gaierror("no network")


@pytest.fixture
def listing(monkeypatch, tmp_path):
    """The names that the listing has defined by line 275, without its download; the folder is empty."""
    monkeypatch.chdir(tmp_path)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        execute(names, 228, 234)
        execute(names, 236, 275)
    return names


@pytest.fixture(scope="module")
def repaired():
    """A classifier that was trained on sentences of two classes."""
    classifier = TextClassifier("lstm", min_count=1, max_length=8, model_dim=8, hidden_dim=8)
    return classifier.fit(*EXAMPLES, epochs=30, patience=30, learning_rate=0.05, batch_size=4, progress=False)


def train(names, epochs=10):
    """Line 278 with its labels an array, so that it runs."""
    labels = np.array(names["labels"])
    return names["model"].fit(names["inputs"], labels, epochs=epochs, batch_size=16, verbose=0)


def padded(names, texts, length=None):
    sequences = names["tokenizer"].texts_to_sequences(texts)
    pad = names["tf"].keras.preprocessing.sequence.pad_sequences
    return pad(sequences, maxlen=length or names["max_sequence_length"])


def test_e21_python_version():
    for package in ("tensorflow", "keras", "numpy", "matplotlib"):
        package = "tensorflow-cpu" if package == "tensorflow" and not installed("tensorflow") else package
        allowed = SpecifierSet(importlib.metadata.metadata(package)["Requires-Python"])
        assert "3.8.20" not in allowed and "3.11.7" in allowed, package
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'requires-python = ">=3.11"' in project


def installed(package):
    return package in {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}


def test_l212_installed_and_never_used():
    wanted = set(INSTALL.split()[2:])
    tree = ast.parse("\n".join(LINES.values()))
    used = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    used |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert wanted - used == {"numpy", "matplotlib", "seaborn"}
    assert "torch" not in wanted and not re.search("[=<>~]", INSTALL)
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert all(re.search(rf"^{package}==", lock, re.MULTILINE) for package in wanted)


def test_l218_the_downloaded_model_is_not_loaded():
    import spacy

    assert not any("en_core_web_sm" in line for line in LINES.values())
    names = {}
    execute(names, 232)
    execute(names, 242)
    assert names["nlp"].pipe_names == [] and names["nlp"]("Alan Turing wrote in London.").ents == ()
    if not spacy.util.is_package("en_core_web_sm"):
        with pytest.raises(OSError, match=r"\[E050\] Can't find model 'en_core_web_sm'"):
            spacy.load("en_core_web_sm")
    assert WordTokenizer.train(["no download"]).split("No download!") == ["no", "download", "!"]


def test_l235_a_failed_download_is_silent_and_of_the_wrong_resource(monkeypatch, tmp_path):
    import nltk

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    said = io.StringIO()
    assert nltk.download("punkt", download_dir=str(tmp_path), print_error_to=said) is False
    assert "Error loading punkt" in said.getvalue()
    with pytest.raises(LookupError, match=r"Resource .*punkt_tab.* not found"):
        nltk.word_tokenize("I love programming")
    assert WordTokenizer.train(["no network"]).split("No network!") == ["no", "network", "!"]


def test_l246_tokenizing_returns_the_text(listing):
    texts = listing["train_texts"]
    assert listing["tokenize_texts"](texts) == texts
    assert [token.text for token in listing["nlp"](texts[0])] == ["I", "love", "programming"]
    assert WordTokenizer.train(texts).split(texts[0]) == ["i", "love", "programming"]


def test_l251_the_tokenizer_is_only_in_tensorflow(listing):
    assert listing["tokenizer"].word_index["is"] == 1
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'keras\.preprocessing\.text'"):
        from keras.preprocessing.text import Tokenizer  # noqa: F401
    ours = WordTokenizer.train(listing["train_texts"])
    assert ours.decode(ours.encode("programming is great")) == "programming is great"


def test_l269_input_length_is_deprecated(listing):
    with pytest.warns(UserWarning, match="Argument `input_length` is deprecated. Just remove it."):
        execute(listing, 268, 273)
    with warnings.catch_warnings(action="error"):
        model = lstm_classifier(listing["vocab_size"], num_classes=2)
    assert model(listing["inputs"]).shape == model(listing["inputs"][:, 2:]).shape == (3, 2)  # any length


def test_l278_a_list_of_labels_is_refused(listing, repaired):
    with pytest.raises(ValueError, match=r"Unrecognized data type: x=\[\[ 0  0  0  2  3  4\]"):
        execute(listing, 278)
    assert type(listing["labels"]) is list  # the culprit; the message blames x
    assert train(listing, epochs=1).history["loss"]
    assert type(EXAMPLES[1]) is list and repaired.predict(EXAMPLES[0][:2]) == ["like", "dislike"]


def test_l281_h5_is_legacy(listing, repaired, caplog, tmp_path):
    from absl import logging

    logging.get_absl_logger().addHandler(caplog.handler)
    try:
        execute(listing, 281)
        assert "HDF5" in caplog.text and "considered legacy" in caplog.text
        caplog.clear()
        repaired.model.save(tmp_path / "model.keras")
        assert caplog.text == ""
    finally:
        logging.get_absl_logger().removeHandler(caplog.handler)
    loaded, tokens = keras.saving.load_model(tmp_path / "model.keras"), np.array([[4, 5, 6]])
    np.testing.assert_array_equal(loaded(tokens), repaired.model(tokens))


def test_l282_there_is_no_save_tokenizer(listing, repaired, tmp_path):
    with pytest.raises(AttributeError, match="'Tokenizer' object has no attribute 'saveTokenizer'"):
        execute(listing, 282)
    repaired.tokenizer.save(tmp_path / "tokenizer.json")
    text = "I really love programming"
    assert WordTokenizer.load(tmp_path / "tokenizer.json").encode(text) == repaired.tokenizer.encode(text)


def test_l316_a_new_process_knows_no_tf(listing, repaired, tmp_path, fresh_python):
    train(listing, epochs=1)
    listing["model"].save("language_model.h5")
    repaired.save(tmp_path / "saved")
    printed = fresh_python(f"""{each_alone(316)}
import tensorflow as tf
{each_alone(316)}
print(model.count_params())
from companion import TextClassifier
print(*TextClassifier.load("saved").predict({EXAMPLES[0][:2]}))""")
    assert printed.splitlines() == ["NameError: name 'tf' is not defined", "231361", "like dislike"]


def test_l317_custom_objects_are_no_tokenizer(repaired, tmp_path, fresh_python):
    repaired.save(tmp_path / "saved")
    text = "I really love programming"
    printed = fresh_python(f"""import tensorflow as tf
{each_alone(317)}
print(tokenizer)
{each_alone(320, 321)}
from companion import WordTokenizer
print(WordTokenizer.load("saved/tokenizer.json").encode({text!r}))""")
    error = "AttributeError: 'dict' object has no attribute 'texts_to_sequences'"
    assert printed.splitlines() == ["{}", error, str(repaired.tokenizer.encode(text))]


def test_l322_the_length_was_not_saved(repaired, tmp_path, fresh_python):
    before = "import tensorflow as tf\ntest_sequences = [[8, 1], [2, 4]]\n"
    assert fresh_python(before + each_alone(322)) == "NameError: name 'max_sequence_length' is not defined\n"
    repaired.save(tmp_path / "saved")
    assert TextClassifier.load(tmp_path / "saved").max_length == repaired.max_length


def test_e22_one_class_teaches_always_one(listing):
    train(listing, epochs=60)
    random = np.random.default_rng(0).integers(0, 13, (500, 6))
    texts = ["Data science is interesting", "I hate programming", ""]
    scores = listing["model"].predict(np.concatenate([random, padded(listing, texts)]), verbose=0)
    assert scores.min() > 0.9
    with pytest.raises(ValueError, match="two classes or more"):
        TextClassifier().fit(listing["train_texts"], listing["labels"])


def test_e22_two_classes_teach_a_difference(repaired):
    assert repaired.predict(["I hate programming", "I love programming"]) == ["dislike", "like"]


def test_e23_unknown_words_vanish(listing, repaired):
    encode = listing["tokenizer"].texts_to_sequences
    assert encode(["I hate programming", "I programming"]) == [[2, 4], [2, 4]]
    assert encode(["Data science is interesting"]) == [[8, 1]] and encode(["zzz"]) == [[]]
    ids = repaired.tokenizer.encode("I adore programming")
    assert len(ids) == 3 and ids[1] == repaired.tokenizer.unknown_id
    assert ids != repaired.tokenizer.encode("I programming")


def test_e24_padding_changes_the_score(listing, repaired):
    train(listing)
    short, long = (listing["model"](padded(listing, ["I love programming"], n)).numpy() for n in (6, 24))
    assert abs(short - long).item() > 0.05
    tokens = repaired.tokenizer.encode_batch(["I love programming"])
    scores = [repaired.model(np.pad(tokens, ((0, 0), (0, n)))).numpy() for n in (0, 3, 21)]
    np.testing.assert_allclose(scores[1:], scores[:1] * 2, atol=1e-6)


def test_e25_ten_steps_and_no_evaluation(listing, repaired):
    history = train(listing)
    assert int(listing["model"].optimizer.iterations) == 10
    assert set(history.history) == {"accuracy", "loss"} and history.history["accuracy"][-1] == 1
    code = "\n".join(LINES.values())
    assert not re.search(r"validation|evaluate|seed|train_test_split", code)
    assert {"val_loss", "val_accuracy"} <= set(repaired.history)


def test_e26_the_saved_file_holds_no_vocabulary(listing, repaired, tmp_path):
    tf = listing["tf"]
    listing["model"].save("language_model.h5")
    data, words = Path("language_model.h5").read_bytes(), ["programming", "python", "analysis", "fascinating"]
    assert set(words) <= set(listing["tokenizer"].word_index)
    assert not [word for word in words if word.encode() in data]
    refitted = tf.keras.preprocessing.text.Tokenizer()
    refitted.fit_on_texts(["I hate programming", *listing["train_texts"]])
    assert refitted.word_index["love"] != listing["tokenizer"].word_index["love"]
    assert max(refitted.word_index.values()) == 13
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"= 13 is not in \[0, 13\)"):
        listing["model"](np.array([[13]]))
    repaired.save(tmp_path / "saved")
    texts = [*EXAMPLES[0], "zzz"]
    loaded = TextClassifier.load(tmp_path / "saved").predict_proba(texts)
    np.testing.assert_array_equal(loaded, repaired.predict_proba(texts))


def test_e27_a_classifier_not_a_language_model(listing):
    model = listing["model"]
    model.build((None, 6))
    assert model.count_params() == 231_361 and listing["vocab_size"] == 13
    assert model(padded(listing, listing["train_texts"])).shape == (3, 1)  # no (3, T, 13): no next word
    assert not [layer for layer in model.layers if "attention" in layer.name]


def test_e28_the_only_result_is_one_one(listing, capsys):
    train(listing)
    listing["model"].save("language_model.h5")
    execute(listing, 316)
    execute(listing, 320, 325)
    capsys.readouterr()
    execute(listing, 327)
    assert capsys.readouterr().out == "[1, 1]\n"
    assert set(listing["labels"]) == {1}
