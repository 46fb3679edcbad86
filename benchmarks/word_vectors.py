"""Word vectors of `companion` beside gensim's: quality, words per second, memory.

    python benchmarks/word_vectors.py [--seeds 3] [--similarity FILE ...] [--analogies FILE ...]

Both train on the docstrings on disk, with the same dimensions, window, negatives, epochs, thresholds and hash
buckets; gensim with two workers, companion with what TensorFlow takes. They take turns, seed by seed. Words
per second count every token of the corpus once an epoch, and the whole call: vocabulary, compiling, training.
Quality is measured on data/word_similarity.tsv (Spearman) and data/analogies.txt (share of right first
answers), and on files you name, such as those of WordSim-353, SimLex-999 and Google's analogies. Memory is
what a fresh process grows by in training (on Linux). 5 to 10 minutes on two cores.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent.parent / "data"
SIZES = {"vector_dim": 100, "window": 5, "negatives": 5, "min_count": 5, "subsample": 1e-3, "epochs": 5}
NAMES = {"vector_dim": "vector_size", "negatives": "negative", "subsample": "sample"}  # gensim's
BUCKETS = 1 << 17
TASKS = {"skip-gram": {"mode": "skip-gram"}, "CBOW": {"mode": "cbow"}, "fastText": {"mode": "skip-gram"}}


def train_gensim(task, corpus, seed):
    from gensim.models import FastText, Word2Vec

    settings = {NAMES.get(name, name): value for name, value in SIZES.items()}
    settings |= {"sg": int(TASKS[task]["mode"] == "skip-gram"), "workers": 2, "seed": seed}
    made = (
        FastText(corpus, bucket=BUCKETS, **settings) if task == "fastText" else Word2Vec(corpus, **settings)
    )
    return made.wv.index_to_key, made.wv.vectors


def train_companion(task, corpus, seed):
    from companion import fasttext, word2vec

    settings = SIZES | TASKS[task] | {"seed": seed, "progress": False}
    made = (
        fasttext(corpus, buckets=BUCKETS, **settings) if task == "fastText" else word2vec(corpus, **settings)
    )
    return made.words, made.vectors


TRAINERS = {"gensim": train_gensim, "companion": train_companion}


def read_corpus():
    """Docstrings as lists of words; punctuation and numbers are left out."""
    from companion import WordTokenizer
    from companion.data import docstrings

    split = WordTokenizer.train(["any"]).split
    texts = [[word for word in split(doc.text) if any(map(str.isalpha, word))] for doc in docstrings()]
    return [words for words in texts if words]


def read_sets(similarity, analogies):
    from companion import read_analogies, read_similarities

    pairs = {Path(path).stem: read_similarities(path, lowercase=True) for path in similarity}
    questions = {Path(path).stem: read_analogies(path, lowercase=True) for path in analogies}
    return pairs, questions


def scores(words, vectors, pairs, questions):
    """{set: score}, of the sets that hold enough of the words."""
    from companion import WordVectors

    made, found = WordVectors(words, vectors), {}
    for name, section in questions.items():
        found[name] = made.evaluate_analogies(section)["total"].accuracy
    for name, judged in pairs.items():
        found[name] = made.evaluate_similarity(judged).correlation
    return found


def grown_memory(who, task, folder):
    """MiB that a fresh process grows by while it trains for one epoch."""
    command = [sys.executable, __file__, "--child", who, task, "--corpus", str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def child(who, task, path):
    """Trains a little, so that all is loaded, then for real; prints by how much memory rose (Linux)."""
    corpus = json.loads(Path(path).read_text(encoding="utf-8"))
    SIZES["epochs"] = 1
    TRAINERS[who](task, corpus[:2000], 0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak so far
    before = memory("VmRSS")
    TRAINERS[who](task, corpus, 0)
    print((memory("VmHWM") - before) / 1024)


def memory(field):
    """KiB, as Linux tells them of this process: VmRSS now, VmHWM at the peak."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))[1])


def measure(task, corpus, seeds, sets, path):
    """Prints a row for each program, and the ratio of their speeds."""
    number = SIZES["epochs"] * sum(map(len, corpus))
    speeds, found = {who: [] for who in TRAINERS}, {who: [] for who in TRAINERS}
    for seed in range(1, seeds + 1):
        for who, train in TRAINERS.items():
            started = time.perf_counter()
            made = train(task, corpus, seed)
            speeds[who].append(number / (time.perf_counter() - started))
            found[who].append(scores(*made, *sets))
    for who in TRAINERS:
        line = f"{task:10} {who:10} {np.median(speeds[who]) / 1e3:6.0f} k ({min(speeds[who]) / 1e3:.0f} to "
        line += f"{max(speeds[who]) / 1e3:.0f})  {grown_memory(who, task, path):5.0f} MiB"
        for name in found[who][0]:
            values = [score[name] for score in found[who]]
            line += f"  {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
        print(line, flush=True)
    ratios = np.divide(speeds["companion"], speeds["gensim"])
    print(f"{'':10} companion / gensim, words per second: {np.median(ratios):.2f} ", end="")
    print(f"({ratios.min():.2f} to {ratios.max():.2f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--similarity", nargs="*", default=[], help="files of pairs and scores")
    parser.add_argument("--analogies", nargs="*", default=[], help="files in Google's format")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(*arguments.child, arguments.corpus)
    similarity = [DATA / "word_similarity.tsv", *arguments.similarity]
    sets = read_sets(similarity, [DATA / "analogies.txt", *arguments.analogies])
    corpus = read_corpus()
    print(f"{len(corpus):,} docstrings, {sum(map(len, corpus)):,} words; {arguments.seeds} seeds; {SIZES}")
    print("words per second: median (range); memory that training adds; then, mean ± standard deviation:")
    print(
        ", ".join(f"analogies {name}" for name in sets[1]),
        ", ".join(f"similarity {name}" for name in sets[0]),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "corpus.json")
        path.write_text(json.dumps(corpus), encoding="utf-8")
        for task in TASKS:
            measure(task, corpus, arguments.seeds, sets, path)
        from companion import glove

        made = glove(corpus, window=5, x_max=10, epochs=10, seed=1, progress=False)
        for name, vectors in (
            ("GloVe", made.vectors),
            ("random", np.random.default_rng(1).normal(size=(len(made), 100))),
        ):
            print(f"{name:10} companion", scores(made.words, vectors, *sets))


if __name__ == "__main__":
    main()
