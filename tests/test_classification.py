"""TextClassifier: learning, one score per text, one artifact, and every bad input refused by name."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion import TextClassifier
from companion.artifact import load_artifact, save_artifact
from companion.labeled import WordDropoutBatches, class_weights, stratified_split
from companion.rounds import Rounds

SUBJECTS = [
    "the cat",
    "a dog",
    "my friend",
    "this book",
    "our garden",
    "the old house",
    "her song",
    "that film",
]
MOODS = {
    "good": ["is wonderful", "is lovely today", "makes me happy"],
    "bad": ["is terrible", "is ugly", "hurts me"],
    "dull": ["is ordinary", "is neither here nor there", "exists"],
}
EXAMPLES = [(f"{who} {mood}", label) for label in MOODS for mood in MOODS[label] for who in SUBJECTS]
TWO = [example for example in EXAMPLES if example[1] != "dull"]
LSTM = {"architecture": "lstm", "model_dim": 8, "hidden_dim": 8}
TRANSFORMER = {"architecture": "transformer", "model_dim": 8, "num_heads": 2, "num_layers": 1}
BAG = TRANSFORMER | {"num_layers": 0}  # trains in no time
FAST = {"epochs": 12, "batch_size": 8, "learning_rate": 0.02, "progress": False}


def columns(examples):
    return [text for text, _ in examples], [label for _, label in examples]


def trained(sizes, examples=EXAMPLES, seed=0, **arguments):
    classifier = TextClassifier(max_length=8, seed=seed, **sizes)
    return classifier.fit(*columns(examples), **FAST | arguments)


@pytest.fixture(scope="module", params=[LSTM, TRANSFORMER], ids=["lstm", "transformer"])
def classifier(request):
    return trained(request.param)


@pytest.fixture(scope="module")
def binary():
    return trained(BAG, TWO)


def test_learns_three_classes(classifier):
    scores = classifier.evaluate(*columns(EXAMPLES))
    assert scores["accuracy"] > 0.95 and scores["macro_f1"] > 0.95
    assert scores["majority"] == pytest.approx(1 / 3)
    assert classifier.history["loss"][-1] < classifier.history["loss"][0]


def test_learns_words_of_unseen_sentences(classifier):
    assert classifier.predict(["the cat makes me happy", "a dog is ugly"]) == ["good", "bad"]


def test_probabilities(classifier):
    probabilities = classifier.predict_proba(columns(EXAMPLES)[0])
    assert probabilities.shape == (len(EXAMPLES), 3) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert classifier.classes == ["bad", "dull", "good"]
    best = [classifier.classes[i] for i in probabilities.argmax(axis=1)]
    assert classifier.predict(columns(EXAMPLES)[0]) == best


def test_loss_is_the_mean_negative_log_probability(classifier):
    texts, labels = columns(EXAMPLES[:5])
    probabilities = classifier.predict_proba(texts)
    columns_of = [classifier.classes.index(label) for label in labels]
    expected = -np.mean(np.log(probabilities[range(5), columns_of]))
    assert classifier.evaluate(texts, labels)["loss"] == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 40), st.integers(0, 40), st.booleans())
def test_a_text_scores_the_same_in_any_batch(classifier, before, after, long_neighbor):
    text = "my friend is lovely today"
    other = "the cat " * 20 if long_neighbor else "zzz"
    alone = classifier.predict_proba([text])[0]
    among = classifier.predict_proba([other] * before + [text] + [other] * after)[before]
    np.testing.assert_allclose(among, alone, atol=1e-6)


def test_padding_changes_no_score(classifier):
    tokens = classifier.tokenizer.encode_batch(["my friend is lovely today"])
    padded = np.pad(tokens, ((0, 0), (0, 8 - tokens.shape[1])))
    short, long = (keras.ops.convert_to_numpy(classifier.model(x)) for x in (tokens, padded))
    np.testing.assert_allclose(short, long, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts TensorFlow's traces")
def test_predicting_compiles_once(classifier):
    for count in (1, 31, 33, 70):
        classifier.predict(["the cat exists"] * count)
    assert classifier.model.predict_function.experimental_get_tracing_count() == 1


def test_unknown_words_are_read_as_unknown(classifier):
    unknown = classifier.tokenizer.unknown_id
    assert classifier.tokenizer.encode("zzz qqq") == [unknown, unknown]
    scores = classifier.predict_proba(
        ["zzz", "zzz qqq xxx", "the zzz is lovely today", "the is lovely today"]
    )
    assert np.isfinite(scores).all()
    assert not np.allclose(scores[2], scores[3], atol=1e-6)  # the article's tokenizer drops the word (E23)


def test_a_long_text_is_cut(classifier):
    text = "the cat is lovely today and so is"
    np.testing.assert_array_equal(
        classifier.predict_proba([text + " terrible ugly"]), classifier.predict_proba([text])
    )


def test_no_text_gives_no_answer(classifier):
    assert classifier.predict_proba([]).shape == (0, 3)
    assert classifier.predict([]) == []


def test_abstains_when_unsure(classifier):
    texts = ["the cat is wonderful", "zzz"]
    sure = classifier.predict_proba(texts).max(axis=1)
    between = float(sure.mean())
    answers = classifier.predict(texts, abstain_below=between)
    assert [answer is None for answer in answers] == list(sure < between) and None in answers
    assert classifier.predict(texts, abstain_below=1.0) == [None, None]


def test_threshold_decides_between_two_classes(binary):
    texts = columns(TWO)[0]
    assert binary.classes == ["bad", "good"]
    good = binary.predict_proba(texts)[:, 1]
    threshold = binary.threshold
    try:
        for binary.threshold in (0.01, 0.5, 0.99):
            expected = ["good" if p >= binary.threshold else "bad" for p in good]
            assert binary.predict(texts) == expected
        binary.threshold = 0.9  # what is answered is "bad", at 0.25
        assert binary.decide(np.array([[0.25, 0.75], [0.05, 0.95]]), abstain_below=0.7) == [None, "good"]
    finally:
        binary.threshold = threshold


def test_a_threshold_is_not_tuned_on_one_class():
    texts, labels = columns(TWO)
    of_one = [text for text, label in zip(texts, labels, strict=True) if label == "good"][:3]
    with pytest.raises(ValueError, match="two classes and texts of both; received 2, 1 of them"):
        trained(BAG, TWO, validation_data=(of_one, ["good"] * 3), tune_threshold=True, epochs=1)


def test_threshold_is_tuned_on_the_validation_texts():
    texts, labels = columns(TWO)
    doubtful = ["the cat", "a dog", "my friend"] * 2
    validation = texts[:6] + texts[-6:] + doubtful, labels[:6] + labels[-6:] + ["good"] * 6
    tuned = trained(BAG, TWO, validation_data=validation, tune_threshold=True, epochs=4)
    best = tuned.evaluate(*validation)["macro_f1"]
    for tuned.threshold in np.arange(5, 96, 5) / 100:
        assert tuned.evaluate(*validation)["macro_f1"] <= best


def test_a_tuned_threshold_is_forgotten_by_the_next_fit(tmp_path):
    classifier = TextClassifier(max_length=8, threshold=0.3, **BAG)
    classifier.threshold = 0.93  # as tuning would
    classifier.fit(*columns(TWO), **FAST | {"epochs": 1})
    assert classifier.threshold == 0.3
    classifier.threshold = 0.93
    classifier.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved")
    assert loaded.threshold == 0.93
    assert loaded.fit(*columns(TWO), **FAST | {"epochs": 1}).threshold == 0.3


FAILURES = [
    {"validation_data": (["a dog"], ["new"])},
    {"validation_data": columns(TWO)[0]},
    {"validation_data": (["a dog", ""], ["good", "bad"])},
    {"patience": -1},
    {"learning_rate": None},  # fails late, when Keras trains
]


@pytest.mark.parametrize("arguments", FAILURES)
def test_a_failed_fit_leaves_nothing_untrained_behind(arguments):
    classifier = TextClassifier(max_length=8, **BAG)
    with pytest.raises((TypeError, ValueError)):
        classifier.fit(*columns(TWO), **FAST | arguments)
    with pytest.raises(RuntimeError, match="must be trained"):
        classifier.predict(["a dog"])


@pytest.mark.parametrize("arguments", FAILURES)
def test_a_failed_fit_leaves_the_trained_classifier_as_it_was(binary, arguments):
    texts, before = columns(TWO)[0], (binary.classes, binary.threshold, binary.history)
    expected = binary.predict_proba(texts)
    with pytest.raises((TypeError, ValueError)):
        binary.fit(texts, ["one", "two"] * (len(texts) // 2), **FAST | arguments)
    np.testing.assert_array_equal(binary.predict_proba(texts), expected)
    assert (binary.classes, binary.threshold, binary.history) == before


def test_made_with_numpys_numbers_it_is_saved_and_loaded(tmp_path):
    sizes = {name: np.int64(size) if name != "architecture" else size for name, size in BAG.items()}
    classifier = TextClassifier(max_length=np.int64(5), threshold=np.float32(0.5), seed=np.int64(1), **sizes)
    classifier.fit(*columns(TWO), **FAST | {"epochs": 1}).save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved")
    assert (loaded.max_length, loaded.seed, loaded.sizes) == (5, 1, classifier.sizes)
    np.testing.assert_array_equal(loaded.predict_proba(["a dog"]), classifier.predict_proba(["a dog"]))


def test_integer_labels_come_back_as_integers():
    numbers = np.array([int(label == "good") for _, label in TWO])
    classifier = TextClassifier(**BAG).fit(columns(TWO)[0], numbers, **FAST | {"epochs": 1})
    assert classifier.classes == [0, 1] and all(type(label) is int for label in classifier.predict(["a dog"]))


def test_chinese():
    examples = [
        (f"我{verb}{thing}", label) for verb, label in (("爱", 1), ("恨", 0)) for thing in "猫狗书花山水雨雪"
    ]
    classifier = TextClassifier(max_length=8, language="zh", min_count=1, **BAG)
    classifier.fit(*columns(examples), **FAST | {"epochs": 30, "patience": 30})
    assert classifier.predict(["我爱月", "我恨月"]) == [1, 0]


def test_same_seed_same_weights():
    runs = [trained(TRANSFORMER | {"dropout": 0.5}, seed=seed, epochs=1) for seed in (0, 0, 1)]
    scores = [run.predict_proba(["the cat is ugly"]) for run in runs]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
    assert np.abs(scores[0] - scores[2]).max() > 1e-4


def test_early_stopping_restores_the_best_weights():
    texts, labels = columns(EXAMPLES)
    swapped = {"good": "bad", "bad": "good", "dull": "dull"}
    validation = texts, [swapped[label] for label in labels]  # the better it learns, the worse it validates
    classifier = trained(BAG, validation_data=validation, epochs=30, patience=2, label_smoothing=0.0)
    losses = classifier.history["val_loss"]
    assert len(losses) < 30 and np.argmin(losses) == len(losses) - 3
    assert classifier.evaluate(*validation)["loss"] == pytest.approx(min(losses), rel=1e-4)


def test_progress_prints_a_line_per_epoch(capsys):
    trained(BAG, epochs=2, progress=True)
    assert [line[:8] for line in capsys.readouterr().out.splitlines()] == ["epoch  1", "epoch  2"]


def test_balance_helps_the_rare_class():
    rare = [example for example in TWO if example[1] == "good"][:3] + [("the cat exists", "bad")] * 60
    plain, balanced = (trained(BAG, rare, balance=balance, epochs=1) for balance in (False, True))
    assert balanced.predict_proba(["a dog"])[0, 1] > 1.2 * plain.predict_proba(["a dog"])[0, 1]


def test_class_weights_give_each_class_the_same_sum():
    targets = np.eye(3)[[0, 0, 0, 0, 1, 1, 2]]
    weights = class_weights(targets)
    np.testing.assert_allclose(targets.T @ weights, [7 / 3] * 3, rtol=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(2, 30), min_size=2, max_size=5), st.floats(0.01, 0.99), st.integers(0, 3))
def test_stratified_split(counts, fraction, seed):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    texts = [str(i) for i in range(len(labels))]
    (train, train_labels), (held_out, held_out_labels) = stratified_split(texts, labels, fraction, seed)
    assert sorted(train + held_out, key=int) == texts
    assert [labels[int(text)] for text in train + held_out] == train_labels + held_out_labels
    for label, count in enumerate(counts):
        kept = held_out_labels.count(label)
        assert 1 <= kept < count and abs(kept - fraction * count) <= 1


def test_word_dropout_spares_padding_and_reaches_every_text_once():
    tokens = np.tile([5, 6, 7, 0, 0], (100, 1))
    batches = WordDropoutBatches(tokens, np.arange(100), np.ones(100), 0.5, 1, 32, 0)
    for _ in range(2):
        seen = [batches[i] for i in range(len(batches))]
        rows = np.concatenate([batch[0] for batch in seen])
        assert sorted(np.concatenate([batch[1] for batch in seen])) == list(range(100))
        assert (rows[:, 3:] == 0).all() and 0.4 < (rows[:, :3] == 1).mean() < 0.6
        batches.on_epoch_end()


def test_saved_and_loaded_in_a_fresh_process(classifier, tmp_path):
    texts = columns(EXAMPLES)[0] + ["zzz", "the cat " * 30]
    classifier.save(tmp_path / "saved")
    code = (
        "import sys, json, companion; c = companion.TextClassifier.load(sys.argv[1]);"
        "print(json.dumps(c.predict_proba(json.loads(sys.argv[2])).tolist()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "saved"), json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(np.float32(json.loads(done.stdout)), classifier.predict_proba(texts))


def test_loaded_equals_saved_in_everything(binary, tmp_path):
    binary.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved")
    for name in ("architecture", "sizes", "max_length", "language", "threshold", "seed", "classes"):
        assert getattr(loaded, name) == getattr(binary, name)
    assert loaded.history == {name: pytest.approx(values) for name, values in binary.history.items()}
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "config.json",
        "model.keras",
        "tokenizer.json",
    ]


def test_saving_again_replaces_whole(binary, tmp_path):
    binary.save(tmp_path / "saved")
    (tmp_path / "saved" / "stray.txt").write_text("old")
    binary.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "stray.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_failed_save_leaves_the_old_one(binary, tmp_path, monkeypatch):
    binary.save(tmp_path / "saved")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(binary.tokenizer, "save", full)
    with pytest.raises(OSError, match="No space"):
        binary.save(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert TextClassifier.load(tmp_path / "saved").classes == binary.classes


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    save_artifact(tmp_path / "out", "kind", 1, {"n": 1}, lambda folder: None)
    assert load_artifact(tmp_path / "out", "kind", 1) == {"n": 1}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_swap_brings_the_old_folder_back(tmp_path, monkeypatch, error):
    save_artifact(tmp_path / "a", "kind", 1, {"n": 1}, lambda folder: None)
    replace, calls = os.replace, []

    def fails_second(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise error("interrupted")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_second)
    with pytest.raises(error, match="interrupted"):
        save_artifact(tmp_path / "a", "kind", 1, {"n": 2}, lambda folder: None)
    assert load_artifact(tmp_path / "a", "kind", 1) == {"n": 1}


def test_what_a_killed_process_left_is_named(tmp_path):
    place = tmp_path / "a"
    save_artifact(place, "kind", 1, {"n": 1}, lambda folder: None)
    (tmp_path / ".a-x1").mkdir()
    place.rename(tmp_path / ".a-x1" / "old")  # and then it was killed
    with pytest.raises(FileNotFoundError, match=r"killed while it saved left it in .*\.a-x1.old"):
        load_artifact(place, "kind", 1)
    batches = np.zeros(3)
    with pytest.raises(FileNotFoundError, match="killed while it saved"):
        Rounds(batches, patience=1, folder=place).resume(None)


def test_what_is_replaced_while_it_is_read_is_refused(binary, tmp_path, monkeypatch):
    binary.save(tmp_path / "saved")
    load = keras.saving.load_model

    def late(path, **settings):
        (tmp_path / "saved" / "model.keras").with_name("config.json").write_text("{}")
        return load(path, **settings)

    monkeypatch.setattr(keras.saving, "load_model", late)
    with pytest.raises(ValueError, match="saved was replaced while it was read; read it again"):
        TextClassifier.load(tmp_path / "saved")


def test_save_spares_a_folder_of_something_else(binary, tmp_path):
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else"):
        binary.save(tmp_path)
    assert (tmp_path / "letters.txt").read_text() == "mine"


def test_load_refuses_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*config\.json"):
        TextClassifier.load(tmp_path)


@pytest.mark.parametrize("name", ["model.keras", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["cut", "remove"])
def test_load_refuses_a_damaged_folder(binary, tmp_path, name, harm):
    binary.save(tmp_path / "saved")
    path = tmp_path / "saved" / name
    path.write_bytes(path.read_bytes()[:-10]) if harm == "cut" else path.unlink()
    with pytest.raises(ValueError, match=f"is damaged: {name} is missing or not as it was saved"):
        TextClassifier.load(tmp_path / "saved")


def edit_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | fields), encoding="utf-8")


@pytest.mark.parametrize(
    "fields, message",
    [({"version": 2}, "newer companion: version 2"), ({"kind": "cake"}, "says 'cake'")],
)
def test_load_refuses_another_version_or_kind(binary, tmp_path, fields, message):
    binary.save(tmp_path / "saved")
    edit_config(tmp_path / "saved", **fields)
    with pytest.raises(ValueError, match=message):
        TextClassifier.load(tmp_path / "saved")


@pytest.mark.parametrize(
    "fields",
    [
        {"sha256": []},
        {"sha256": {}},
        {"sha256": None},
        {"config": {}},
        {"config": None},
        {"version": None},
        {"version": 0},
        {"seal": None},
        {"more": 1},
    ],
)
def test_load_refuses_a_config_that_is_not_as_it_was_saved(binary, tmp_path, fields):
    binary.save(tmp_path / "saved")
    edit_config(tmp_path / "saved", **fields)
    with pytest.raises(ValueError, match=r"is damaged: config\.json is not as it was saved"):
        TextClassifier.load(tmp_path / "saved")


@pytest.mark.parametrize(
    "fields", [{"classes": ["good", "bad"]}, {"classes": ["bad"]}, {"threshold": 0.9}, {"history": {}}]
)
def test_load_refuses_changed_settings(binary, tmp_path, fields):
    binary.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))["config"]
    edit_config(tmp_path / "saved", config=config | fields)
    with pytest.raises(ValueError, match=r"is damaged: config\.json is not as it was saved"):
        TextClassifier.load(tmp_path / "saved")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '"text"', "null"])
def test_load_refuses_a_damaged_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        TextClassifier.load(tmp_path)


def test_one_class_is_refused_with_what_the_article_did():
    texts = ["I love programming", "Python is great for data analysis", "Machine learning is fascinating"]
    with pytest.raises(
        ValueError, match=r"two classes or more; received only 1\. .*\[1\] \* len\(train_texts\).*E22"
    ):
        TextClassifier().fit(texts, [1] * len(texts))


BAD_DATA = [
    ((["a", "b"], ["x"]), ValueError, "texts and labels must be as many; received 2 and 1"),
    (([], []), ValueError, "at least one text; received none"),
    ((["a", " \n"], [0, 1]), ValueError, r"texts must not be empty; received texts\[1\]"),
    ((["a", None], [0, 1]), TypeError, r"texts must be strings; received texts\[1\]=None"),
    (([float("nan"), "b"], [0, 1]), TypeError, r"texts\[0\]=nan"),
    (([b"a", "b"], [0, 1]), TypeError, r"texts\[0\]=b'a'"),
    (("a text", [0, 1]), TypeError, "texts must be a list of strings; received str"),
    ((7, [0, 1]), TypeError, "texts must be a list of strings; received int"),
    ((["a", "b"], "01"), TypeError, "labels must be a list; received str"),
    ((["a", "b"], [0, float("nan")]), TypeError, r"all strings or all integers; received labels\[1\]=nan"),
    ((["a", "b"], [0, "1"]), TypeError, r"received labels\[1\]='1'"),
    ((["a", "b"], [None, None]), TypeError, r"received labels\[0\]=None"),
    ((["a", "b", "c"], [0, 0, 1]), ValueError, "each class twice or more, .*; 1 comes once"),
]


@pytest.mark.parametrize("data, error, message", BAD_DATA)
def test_fit_refuses_bad_data(data, error, message):
    with pytest.raises(error, match=message):
        TextClassifier().fit(*data)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"epochs": 0}, "epochs must be at least 1; received epochs=0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"validation_fraction": 0}, "validation_fraction must lie between 0 and 1; received 0"),
        ({"validation_fraction": float("nan")}, "validation_fraction must lie between 0 and 1; received nan"),
        ({"word_dropout": 1}, r"word_dropout must lie in \[0, 1\)"),
        ({"label_smoothing": -0.1}, r"label_smoothing must lie in \[0, 1\)"),
        ({"tune_threshold": True}, "tune_threshold needs two classes and texts of both; received 3"),
        ({"validation_data": (["a"], ["new"])}, r"labels must be among .*; received labels\[0\]='new'"),
        ({"patience": -1}, "patience must be at least 0; received patience=-1"),
    ],
)
def test_fit_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TextClassifier().fit(*columns(EXAMPLES), **arguments)


def test_fit_wants_pairs_to_validate_with():
    with pytest.raises(
        TypeError, match=r"validation_data must be a pair \(texts, labels\); received ndarray"
    ):
        TextClassifier().fit(*columns(EXAMPLES), validation_data=np.array(["a", "b", "c"]))
    with pytest.raises(TypeError, match=r"validation_data must be a pair \(texts, labels\); received list"):
        TextClassifier().fit(*columns(EXAMPLES), validation_data=["a", "b", "c"])


@pytest.mark.parametrize("share", [2, -0.1, float("nan")])
def test_predict_refuses_to_abstain_below_what_no_probability_reaches(binary, share):
    with pytest.raises(ValueError, match=rf"abstain_below must lie in \[0, 1\]; .*abstain_below={share}\."):
        binary.predict(["a dog"], abstain_below=share)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"architecture": "bert"}, r"architecture must be one of \['lstm', 'transformer'\]; received 'bert'"),
        ({"architecture": "lstm", "num_heads": 2}, r"architecture 'lstm' takes .*; received \['num_heads'\]"),
        ({"threshold": 0}, "threshold must lie between 0 and 1; received threshold=0"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"vocabulary_size": 0}, "vocabulary_size must be at least 1"),
        ({"language": "fr"}, 'language must be "en" or "zh"; received \'fr\''),
        ({"num_heads": 3}, "num_heads must divide model_dim; received model_dim=64, num_heads=3"),
        ({"model_dim": 10}, "num_heads must divide model_dim; received model_dim=10, num_heads=4"),
        ({"architecture": "lstm", "dropout": 1.0}, r"dropout must lie in \[0, 1\); received dropout=1\.0"),
    ],
)
def test_constructor_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TextClassifier(**arguments)


def test_evaluate_refuses_unseen_labels(binary):
    with pytest.raises(ValueError, match=r"among \['bad', 'good'\]; received labels\[1\]='dull'"):
        binary.evaluate(["a dog", "a cat"], ["good", "dull"])


@pytest.mark.parametrize(
    "call", [lambda c: c.predict(["a"]), lambda c: c.evaluate(["a"], [1]), lambda c: c.save("x")]
)
def test_untrained_is_refused(call):
    with pytest.raises(RuntimeError, match="must be trained; call fit, or"):
        call(TextClassifier())
