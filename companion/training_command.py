"""`companion train`: the article's classifier on a reader's own texts (article section 5)."""

import argparse
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

from companion.artifact import load_artifact
from companion.evaluation import accuracy, confidence_interval, confusion_matrix, macro_f1
from companion.own_data import SUFFIXES, grouped_split, read_labeled

EXAMPLE = "example: companion train reviews.csv --model reviews-model --epochs 10"


def add_train(commands: argparse._SubParsersAction) -> None:
    """Adds the command `train` to a parser's commands."""
    about = "train a classifier on your own texts, and report how good it is on texts held out"
    command = commands.add_parser("train", help=about, description=about, epilog=EXAMPLE)
    columns = f"{', '.join(SUFFIXES)}, UTF-8, with a column of texts and one of labels"
    command.add_argument("file", metavar="FILE", help=columns)
    folder = "folder to make: the model, report.txt and confusion_matrix.png"
    command.add_argument("--model", required=True, metavar="FOLDER", help=folder)
    command.add_argument("--text-column", default="text", metavar="NAME", help="default: text")
    command.add_argument("--label-column", default="label", metavar="NAME", help="default: label")
    kinds = "lstm is the article's; default: transformer"
    command.add_argument("--architecture", choices=("transformer", "lstm"), default="transformer", help=kinds)
    command.add_argument("--language", choices=("en", "zh"), default="en", help="default: en")
    length = "words (zh: characters) read of each text; default: 40"
    command.add_argument("--max-length", type=int, default=40, metavar="N", help=length)
    command.add_argument("--epochs", type=int, default=20, metavar="N", help="most passes; default: 20")
    small = "texts a step; fewer suit small files; default: 64"
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help=small)
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    share = "share held out for the report, in (0, 1); default: 0.2"
    command.add_argument("--test-fraction", type=float, default=0.2, metavar="F", help=share)
    command.add_argument("--resume", action="store_true", help="go on with an interrupted training")
    command.set_defaults(run=train)


def train(options: argparse.Namespace) -> int:
    """Trains, saves and reports; after an interruption `--resume` goes on from the last whole epoch."""
    from companion.classification import TextClassifier

    folder = Path(options.model).resolve()
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    _check_folders(folder, unfinished, Path(options.file), options.resume)
    data = read_labeled(options.file, options.text_column, options.label_column)
    rest, test = grouped_split(*data, options.test_fraction, options.seed)
    known, validation = grouped_split(*rest, 0.1, options.seed)
    sizes = f"{len(known[0])} to train on, {len(validation[0])} to stop by, {len(test[0])} held out"
    print(f"{len(data[0])} texts of {len(set(data[1]))} classes: {sizes}", flush=True)
    settings = {"language": options.language, "max_length": options.max_length, "seed": options.seed}
    classifier = TextClassifier(options.architecture, **settings)
    rounds = {"epochs": options.epochs, "batch_size": options.batch_size, "checkpoint": unfinished}
    try:
        classifier.fit(*known, validation, **rounds)
    except KeyboardInterrupt:
        print("interrupted: the same command with --resume goes on", file=sys.stderr)
        raise
    classifier.save(folder)
    _report(classifier, known[1], test, folder)
    shutil.rmtree(unfinished)
    print(f'saved in {folder}; try: companion predict --model "{options.model}" "a text"')
    return 0


def _check_folders(folder, unfinished, file, resume):
    from companion.classification import KIND, VERSION

    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        try:
            load_artifact(folder, KIND, VERSION)
        except (ValueError, OSError) as error:
            wanted = "--model must be a new or empty folder, or a saved classifier, which is replaced"
            raise FileExistsError(f"{wanted}; received {folder}.") from error
    if file.resolve().is_relative_to(folder):
        raise FileExistsError(f"--model must not hold {file}: that folder is replaced whole.")
    if unfinished.exists() and not resume:
        raise FileExistsError(
            f"{unfinished} holds an unfinished training: --resume goes on with it; or delete that folder."
        )


def _report(classifier, known, test, folder):
    from sklearn.metrics import precision_recall_fscore_support

    expected, predicted = test[1], classifier.predict(test[0])
    (majority, _), *_ = sorted(Counter(known).items(), key=lambda item: (-item[1], item[0]))
    rows = {"classifier": predicted, f"always {majority!r}": [majority] * len(expected)}
    low, high = confidence_interval(accuracy, expected, predicted)
    lines = [f"on {len(expected)} texts held out, one seed:", f"{'':24} accuracy  macro-F1"]
    for name, answers in rows.items():
        lines.append(f"{name:24} {accuracy(expected, answers):8.3f} {macro_f1(expected, answers):9.3f}")
    lines.append(f"95 % interval of the accuracy: {low:.3f} to {high:.3f}")
    lines.append(f"\n{'class':24} precision    recall        F1     texts")
    scores = precision_recall_fscore_support(expected, predicted, labels=classifier.classes, zero_division=0)
    for name, precision, recall, f1, count in zip(classifier.classes, *scores, strict=True):
        lines.append(f"{name:24} {precision:9.3f} {recall:9.3f} {f1:9.3f} {count:9}")
    text = "\n".join(lines)
    print(text, flush=True)
    _write(folder / "report.txt", lambda path: path.write_text(f"{text}\n", encoding="utf-8"))
    _draw(confusion_matrix(expected, predicted, labels=classifier.classes), classifier.classes, folder)


def _draw(matrix, classes, folder):
    import matplotlib.pyplot as plt

    from companion import visualization

    visualization.set_style()
    ax = visualization.confusion_matrix(matrix, classes, "Confusion matrix, texts held out")
    _write(folder / "confusion_matrix.png", lambda path: ax.figure.savefig(path, format="png", dpi=150))
    plt.close(ax.figure)


def _write(path, write):
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
