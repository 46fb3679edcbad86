"""`companion train`: the user's own files read, split, trained on, resumed and reported."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from companion import TextClassifier
from companion.__main__ import main
from companion.labeled import Progress
from companion.own_data import grouped_split, read_labeled

SUBJECTS = "film book song garden house story meal city".split()
GOOD = "I love this {}", "what a wonderful {} that was", "this {} makes everybody happy"
BAD = "I hate this {}", "what a terrible {} that was", "this {} makes everybody angry"
ROWS = [
    (text.format(x), label) for label, some in (("好", GOOD), ("bad", BAD)) for text in some for x in SUBJECTS
]
QUICK = ["--architecture", "lstm", "--epochs", "3", "--max-length", "8"]


def write(path, rows=ROWS):
    path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows), encoding="utf-8")
    return str(path)


# files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", '\ufefflabel,text\r\nx,"one, ""two""\nthree"\r\n\r\n2,你好\r\n'),
        ("a.tsv", 'label\ttext\nx\tone, "two"\n2\t你好\n'),
        ("a.jsonl", '{"text": "o\u2028ne", "label": "x", "more": 1}\n\n{"label": 2, "text": "你好"}\n'),
    ],
)
def test_files_are_read(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    texts, labels = read_labeled(tmp_path / name)
    first = {"a.csv": 'one, "two"\nthree', "a.tsv": 'one, "two"', "a.jsonl": "o\u2028ne"}[name]
    assert (texts, labels) == ([first, "你好"], ["x", "2"])


def test_columns_may_have_other_names(tmp_path):
    (tmp_path / "A.CSV").write_text("id,review,stars\n1,good,5\n2,bad,1\n", encoding="utf-8")
    assert read_labeled(tmp_path / "A.CSV", "review", "stars") == (["good", "bad"], ["5", "1"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"text,label\n", r"a.txt must end in .csv, .tsv or .jsonl"),
        ("a.csv", b"", r"a.csv, line 1: the column 'text' expected; found \[\]"),
        ("a.csv", b"text,labels\na,b\n", r"line 1: the column 'label' expected; found \['text', 'labels'\]"),
        ("a.csv", b"text,label\n", r"a.csv: texts expected; found none"),
        ("a.csv", b'text,label\n"a\nb",x\nc\n', r"line 4: 2 fields expected; found 1"),
        ("a.csv", b'text,label\na,x\n"b"c,x\n', r"line 3: "),
        ("a.csv", b'text,label\na,x\n"b,x\n', r"line 3: unexpected end of data"),
        ("a.csv", b"text,label\na,x\n ,y\n", r"line 3: a text in 'text' expected; found ' '"),
        ("a.csv", b"text,label\na,\n", r"line 2: a label in 'label' expected; found ''"),
        ("a.csv", b"text,label\na,x\n\xd6,y\n", r"line 3: UTF-8 expected; found b'\\xd6,y"),
        ("a.tsv", b"text\tlabel\na\tb\tc\n", r"line 2: 2 fields expected; found 3"),
        ("a.jsonl", b'{"text": "a", "label": "b"}\n[1]\n', r"line 2: an object with text, label expected"),
        ("a.jsonl", b'{"text": "a", "label": "b"}\n{"text": "a"}\n', r"line 2: an object with text, label"),
        ("a.jsonl", b'{"text": 3, "label": "b"}\n', r"line 1: a text in 'text' expected; found 3"),
        ("a.jsonl", b'{"text": "a", "label": null}\n', r"line 1: a label in 'label' expected; found None"),
        ("a.jsonl", b"{\n", r"line 1: a JSON object expected"),
    ],
)
def test_bad_lines_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_labeled(tmp_path / name)


# the split


def test_the_split_takes_a_share_of_every_class():
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(list("abcdefghijklmnop"), 9)) for _ in range(100)]
    labels = ["rare"] * 10 + ["common"] * 90
    (texts, known), (others, held_out) = grouped_split(words, labels, 0.2)
    assert (held_out.count("rare"), held_out.count("common")) == (2, 18)
    assert sorted(texts + others) == sorted(words) and not set(texts) & set(others)
    pairs = dict(zip(words, labels, strict=True))
    assert all(pairs[text] == label for text, label in zip(texts + others, known + held_out, strict=True))
    assert grouped_split(words, labels, 0.2) == ((texts, known), (others, held_out))
    assert grouped_split(words, labels, 0.2, seed=1)[1] != (others, held_out)


def test_copies_stay_on_one_side():
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(list("abcdefghijklmnop"), 9)) for _ in range(40)]
    texts = [copy for text in words for copy in (text, text.upper() + "!")]
    for seed in range(5):
        (known, _), (held_out, _) = grouped_split(texts, ["x", "y"] * 40, 0.3, seed)
        assert held_out and not {text.lower().strip("!") for text in known} & {
            text.lower().strip("!") for text in held_out
        }


@pytest.mark.parametrize(
    ("texts", "fraction", "message"),
    [
        (["one", "two", "three"], 0.5, "'b' has too few or nearly the same ones: add to its 1"),
        (["one", "two", "same", "same"], 0.5, "'b' has too few or nearly the same ones: add to its 2"),
        (["one", "two", "three", "four"], 1.0, "fraction must lie between 0 and 1; received 1.0"),
    ],
)
def test_too_few_texts_are_refused(texts, fraction, message):
    with pytest.raises(ValueError, match=message):
        grouped_split(texts, ["a", "a", "b", "b"][: len(texts)], fraction)


# the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    assert main(["train", write(folder / "文.csv"), "--model", str(folder / "model"), *QUICK]) == 0
    return folder


def test_train_saves_a_classifier_with_its_report(trained):
    classifier = TextClassifier.load(trained / "model")
    assert classifier.classes == ["bad", "好"] and classifier.architecture == "lstm"
    report = (trained / "model" / "report.txt").read_text(encoding="utf-8")
    rest, (texts, labels) = grouped_split(*read_labeled(trained / "文.csv"), 0.2)
    scores = classifier.evaluate(texts, labels)
    lines = {line.rsplit(maxsplit=2)[0].strip(): line.split()[-2:] for line in report.splitlines() if line}
    assert lines["classifier"] == [f"{scores[name]:.3f}" for name in ("accuracy", "macro_f1")]
    majority = "bad" if rest[1].count("bad") >= rest[1].count("好") else "好"
    assert float(lines[f"always '{majority}'"][0]) == round(labels.count(majority) / len(labels), 3)
    assert f"on {len(labels)} texts held out" in report and "precision" in report
    for label in classifier.classes:
        (line,) = (line for line in report.splitlines() if line.startswith(f"{label} "))
        assert int(line.split()[-1]) == labels.count(label)
    with Image.open(trained / "model" / "confusion_matrix.png") as picture:
        assert picture.format == "PNG" and picture.width > 300
    names = {path.name for path in trained.iterdir()}
    assert names == {"文.csv", "model"}  # nothing unfinished is left


def test_train_on_json_lines_replaces_a_classifier(trained, capsys):
    path = trained / "rows.jsonl"
    path.write_text("".join(json.dumps({"t": t, "l": x}) + "\n" for t, x in ROWS), encoding="utf-8")
    options = ["--text-column", "t", "--label-column", "l", "--seed", "1", "--test-fraction", "0.25"]
    assert main(["train", str(path), "--model", str(trained / "other"), *QUICK, *options]) == 0
    printed = capsys.readouterr().out
    assert "48 texts of 2 classes: " in printed and "12 held out" in printed
    assert "epoch  3: loss" in printed and "companion predict --model" in printed
    assert main(["train", str(path), "--model", str(trained / "other"), *QUICK, *options]) == 0
    assert TextClassifier.load(trained / "other").seed == 1


def test_the_folder_of_the_texts_is_not_replaced(trained, capsys):
    folder = trained / "both"
    shutil.copytree(trained / "model", folder)
    shutil.copy(trained / "文.csv", folder)
    assert main(["train", str(folder / "文.csv"), "--model", str(folder), *QUICK]) == 1
    assert "--model must not hold" in capsys.readouterr().err
    assert (folder / "文.csv").exists()
    shutil.rmtree(folder)


class Killed(BaseException):
    pass


def test_an_interrupted_training_is_resumed_and_ends_with_the_same_weights(trained, monkeypatch, capsys):
    show, shown, model = Progress.on_epoch_end, [], str(trained / "resumed")
    command = ["train", str(trained / "文.csv"), "--model", model, *QUICK]

    def interrupting(self, epoch, logs=None):
        shown.append(epoch)
        show(self, epoch, logs)
        if len(shown) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "on_epoch_end", interrupting)
    assert main(command) == 130
    assert "the same command with --resume goes on" in capsys.readouterr().err
    assert main(command) == 1
    assert "holds an unfinished training: --resume goes on with it" in capsys.readouterr().err
    assert main([*command, "--seed", "1", "--resume"]) == 1
    assert "with other texts, labels or settings" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert shown == [0, 1, 2]
    resumed, whole = TextClassifier.load(model), TextClassifier.load(trained / "model")
    assert resumed.history == whole.history and len(whole.history["loss"]) == 3
    for one, other in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not (trained / "resumed.unfinished").exists()


def test_resuming_what_is_done_or_never_begun_trains_no_more(trained, monkeypatch, capsys):
    command = ["train", str(trained / "文.csv"), "--model", str(trained / "late"), *QUICK, "--resume"]

    def killed(*_):
        raise Killed

    monkeypatch.setattr(TextClassifier, "save", killed)  # after the last epoch
    with pytest.raises(Killed):
        main(command)
    monkeypatch.undo()
    capsys.readouterr()
    assert main(command) == 0
    assert "epoch" not in capsys.readouterr().out
    resumed, whole = TextClassifier.load(trained / "late"), TextClassifier.load(trained / "model")
    np.testing.assert_array_equal(resumed.model.get_weights()[0], whole.model.get_weights()[0])


def test_train_spares_what_is_no_classifier(trained, tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    for taken in (tmp_path, tmp_path / "letter.txt"):
        assert main(["train", str(trained / "文.csv"), "--model", str(taken), *QUICK]) == 1
        assert "--model must be a new or empty folder, or a saved classifier" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_train_names_what_is_wrong_with_the_file(tmp_path, capsys):
    model = str(tmp_path / "model")
    assert main(["train", str(tmp_path / "absent.csv"), "--model", model]) == 1
    assert "absent.csv" in capsys.readouterr().err
    assert main(["train", write(tmp_path / "a.csv", ROWS[:24]), "--model", model]) == 1
    assert "two classes or more" in capsys.readouterr().err
    assert main(["train", write(tmp_path / "a.csv"), "--model", model, "--epochs", "0"]) == 1
    assert "epochs must be at least 1" in capsys.readouterr().err
    assert main(["train", write(tmp_path / "a.csv"), "--model", model, "--batch-size", "0"]) == 1
    assert "batch_size must be at least 1; received batch_size=0" in capsys.readouterr().err
    assert main(["train", write(tmp_path / "a.csv"), "--model", model, "--test-fraction", "2"]) == 1
    assert "fraction must lie between 0 and 1; received 2.0" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
