"""The rules of the house: what may import what, what may lie in the repository, what must agree."""

import ast
import hashlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import keras
import nbformat
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# The order of the article: a module imports only modules named before it.
ORDER = (
    *("base", "cache"),
    *("tokenizer", "text"),
    *("splits", "prose", "download", "sources", "library", "parallel", "data"),
    *("written", "stories", "conversations", "careful_sets", "grammar", "ngrams"),
    *(
        "subwords",
        "vector_streams",
        "fasttext_files",
        "word2vec_files",
        "vector_files",
        "word_scores",
        "vectors",
    ),
    *("word_corpus", "adagrad", "negative_sampling", "cooccurrence", "word_vectors"),
    *("embedding", "attention", "encoder", "decoder", "classifiers", "lstm", "models"),
    *("artifact", "objectives", "batches", "pretraining", "inspection"),
    *("training", "heads", "lora", "finetuning"),
    *("decoding", "search", "prompts", "generation"),
    *("checkpoint_files", "pretrained_tokenizer", "sentencepiece_files"),
    *("weight_maps", "checkpoint_families", "checkpoint_configs", "pretrained"),
    *("evaluation", "drawing", "visualization", "token_maps", "explorer", "flowchart"),
    *("labeled", "rounds", "classification"),
    *("abstention", "review", "text_quality", "retrieval", "scenes", "captioning", "melody", "dialogue"),
    *("recommendation", "entities", "bibliography", "compute", "scaling"),
    *("preference", "federated", "privacy", "attribution", "fairness", "model_card"),
    *("saved_model", "applications", "own_data", "batching", "guard", "service", "endpoints", "serving"),
    *("training_command", "commands", "doctor"),
    *("__init__", "__main__"),
)
LAYERS = {"embedding", "attention", "encoder", "decoder", "classifiers", "lstm", "models", "inspection"}
LAYERS |= {"pretraining", "heads", "lora", "finetuning", "decoding", "search", "prompts", "generation"}
LAYERS |= {"retrieval", "captioning", "preference", "attribution"}
ALONE = {"evaluation", "drawing", "explorer"}  # arrays and tokens in; `visualization` adds but drawing
BACKENDS = {"tensorflow", "jax", "torch"}
MODULES = sorted((ROOT / "companion").glob("*.py"))
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
SETS = sorted((ROOT / "data").glob("*.[jt]*"))  # .json, .jsonl, .tsv, .txt
NOTEBOOKS = CHAPTERS + sorted((ROOT / "chapters" / "solutions").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
# All but those of the layers: a tensor has no type that three backends share.
plain = [path for path in MODULES if path.stem not in LAYERS]
each_plain_module = pytest.mark.parametrize("path", plain, ids=lambda path: path.stem)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree):
    """The full names of what a syntax tree imports: `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write the full name: from companion.text import …"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def provided():
    return importlib.metadata.packages_distributions()


def siblings(path):
    """The modules of companion that a module imports."""
    parts = [name.split(".") for name in imports(parsed(path))]
    names = {part[1] for part in parts if part[0] == "companion" and len(part) > 1}
    return names & {module.stem for module in MODULES}


def others(path):
    """The packages that a file imports and Python does not bring."""
    names = {name.partition(".")[0] for name in imports(parsed(path))}
    return names - set(sys.stdlib_module_names) - {"companion"}


def locked(name):
    """The versions that a lock pins, and the lock: ({package: {version}}, text)."""
    text = (ROOT / name).read_text(encoding="utf-8")
    versions = {}
    for package, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE):
        versions.setdefault(canonicalize_name(package), set()).add(version)
    return versions, text


def tracked():
    """The text files of the repository: those git knows, or, without git, all but the hidden ones."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if "egg-info" not in str(path) and "/." not in str(path)]
    binary = {".png", ".pyc", ".keras", ".npz", ".gz"}
    return [path for path in paths if path.is_file() and path.suffix not in binary]


@each_module
def test_a_module_imports_only_modules_before_it(path):
    assert path.stem in ORDER, f"{path.name} has no place in the article's order yet"
    later = siblings(path) - set(ORDER[: ORDER.index(path.stem)])
    assert not later, f"{path.name} imports {sorted(later)}, which come after it"


@pytest.mark.parametrize("name", sorted(ALONE))
def test_evaluation_and_the_views_import_no_sibling(name):
    assert not siblings(ROOT / "companion" / f"{name}.py")


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layers_need_keras_and_numpy_only(name):
    tree = parsed(ROOT / "companion" / f"{name}.py")
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {module.partition(".")[0] for module in imports(ast.Module(at_import, []))}
    assert names - set(sys.stdlib_module_names) <= {"keras", "numpy", "companion"}
    # Inside functions a backend may be called by its name, to compile.
    assert others(ROOT / "companion" / f"{name}.py") <= {"keras", "numpy", *BACKENDS}


@each_module
def test_what_a_module_imports_is_declared(path):
    wanted = [*PROJECT["dependencies"], *EXTRAS["tools"], *EXTRAS["serve"]]
    declared = {canonicalize_name(Requirement(line).name) for line in wanted}
    for name in others(path) - BACKENDS:
        owners = {canonicalize_name(owner) for owner in provided().get(name, [])}
        assert owners & declared, f"{path.name} imports {name}, which pyproject.toml does not declare"


@each_module
def test_companion_knows_nothing_of_what_is_built_on_it(path):
    assert not others(path) & {"chapters", "tests", "benchmarks", "data"}


def test_tests_and_benchmarks_import_companion_and_never_one_another():
    for folder in ("tests", "benchmarks", "chapters", "data"):
        files = sorted((ROOT / folder).rglob("*.py"))
        rooms = {"tests", "benchmarks", "chapters", "data", *(file.stem for file in files)}
        for file in files:
            assert not {name.partition(".")[0] for name in imports(parsed(file))} & rooms, file


@each_module
def test_modules_are_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 300


@each_module
def test_functions_are_short(path):
    """About ten lines are the aim; the docstring does not count."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 35, f"{node.name} has {lines} lines without its docstring"


@each_module
def test_what_is_public_is_documented(path):
    for node in parsed(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@each_plain_module
def test_public_functions_have_type_hints(path):
    for node in parsed(path).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [argument.arg for argument in arguments if argument.annotation is None]
            assert not bare and node.returns is not None, f"{node.name}: {bare or 'its result'}"


def test_nothing_pickles():
    banned = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
    risky = r"allow_pickle\s*=\s*True|import (pickle|dill|joblib)|safe_mode\s*=\s*False"
    for path in tracked():
        if path.suffix == ".py":
            assert not {name.partition(".")[0] for name in imports(parsed(path))} & banned, path
        if path.suffix in {".py", ".ipynb"} and path != Path(__file__):
            found = re.search(risky, path.read_text(encoding="utf-8"))
            assert not found, f"{path}: {found[0]}"


def test_the_repository_names_no_machine_and_no_registry():
    place = r"(?<![\w.])/(?:tmp|work|root|farm)/|(?<![\w.])/home/(?!reader)\w|\b[A-Z]:\\+Users"
    registry = r"--(?:extra-)?index[-]url|--find[-]links|pypi\.org|pythonhosted\.org|\bmirrors?\.\w+\.\w+"
    found = []
    for path in tracked():
        lines = path.read_text(encoding="utf-8").splitlines()
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
            for number, line in enumerate(lines, start=1)
            if re.search(f"{place}|{registry}", line)
        ]
    assert not found, "\n".join(found)


def test_files_are_small_and_none_is_left_over():
    for path in tracked():
        assert path.stat().st_size <= 1 << 20, f"{path} is over 1 MiB"
        assert not {"__pycache__", ".ipynb_checkpoints", ".venv"} & set(path.parts), path


@each_notebook
def test_notebooks_are_short(path):
    cells = nbformat.read(path, 4).cells
    assert len(cells) <= 60
    for number, cell in enumerate(cells, start=1):
        assert len(cell.source.splitlines()) < 25, f"cell {number} has 25 lines or more"


@each_notebook
def test_notebooks_are_committed_as_executed_from_a_fresh_kernel(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(cell.outputs for cell in code)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}, "run make chapters"


@each_notebook
def test_notebooks_import_no_other_room(path):
    code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert not re.search(r"(from|import) (tests|benchmarks|chapters|run)\b", "\n".join(code))


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.txt", PROJECT["dependencies"]),
        ("requirements.txt", EXTRAS["tools"]),
        ("requirements.txt", EXTRAS["serve"]),
        ("requirements.txt", EXTRAS["book"]),
        ("requirements-test.txt", EXTRAS["test"]),
        ("requirements-bench.txt", EXTRAS["bench"]),
    ],
)
def test_the_locks_hold_what_pyproject_requires(lock, wanted):
    versions, text = locked(lock)
    for requirement in map(Requirement, wanted):
        pinned = versions.get(canonicalize_name(requirement.name), set())
        allowed = pinned and all(map(requirement.specifier.contains, pinned))
        assert allowed or requirement.name == "companion", f"{requirement}, locked: {pinned}"
    assert text.count("--hash=sha256:") >= sum(map(len, versions.values()))


def test_the_locks_agree_where_they_meet():
    book = locked("requirements.txt")[0]
    for lock in ("requirements-test.txt", "requirements-bench.txt"):
        different = {name: pins for name, pins in locked(lock)[0].items() if book.get(name, pins) != pins}
        assert not different, f"{lock} and requirements.txt pin different versions: {different}"


def test_tensorflow_is_locked_without_cuda():
    versions, text = locked("requirements.txt")
    assert versions["tensorflow"] == versions["tensorflow-cpu"]
    assert not [name for name in versions if name.startswith("nvidia")]
    elsewhere = "platform_machine != 'AMD64' and platform_machine != 'x86_64'"
    assert re.search(rf"^tensorflow==\S+ ; {elsewhere}", text, re.MULTILINE)


def test_the_version_is_the_same_everywhere():
    source = (ROOT / "companion" / "__init__.py").read_text(encoding="utf-8")
    said = re.search(r'^__version__ = "(.*)"$', source, re.MULTILINE)[1]
    assert said == PROJECT["version"] == importlib.metadata.version("companion")


def test_the_readme_names_what_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.* ## ", makefile, re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", readme, re.MULTILINE)) <= targets
    for named in re.findall(r"\]\(((?!https?:|#|mailto:)[^)#\s]+)", readme):
        assert (ROOT / named).exists(), f"README.md points at {named}, which does not exist"


def test_the_example_of_the_readme_runs_ignores_padding_and_loads(monkeypatch, tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    tokens = np.array([[5, 6, 7, 8], [9, 8, 7, 0]])
    short, long = (names["model"](np.pad(tokens, ((0, 0), (0, n)))).numpy() for n in (0, 5))
    assert short.shape == (2, 2) and np.abs(short[0] - short[1]).max() > 1e-3
    np.testing.assert_allclose(short, long, atol=1e-6)
    (saved,) = tmp_path.iterdir()
    np.testing.assert_array_equal(keras.saving.load_model(saved)(tokens).numpy(), short)


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.name)
def test_each_written_set_has_a_card_with_its_hash(path):
    card = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    text = path.read_text(encoding="utf-8")  # whatever the line ends of the checkout
    assert f"**`{path.name}`**" in card
    assert hashlib.sha256(text.encode()).hexdigest() in card, f"data/README.md: the sha256 of {path.name}"


def test_the_readme_leaves_out_no_chapter_and_no_module():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    paths = [path for path in [*CHAPTERS, *MODULES] if not path.stem.startswith("__")]
    assert not [path.name for path in paths if path.name not in readme]
    assert PROJECT["requires-python"].removeprefix(">=") in readme


def test_the_image_and_make_use_a_python_that_pyproject_allows():
    allowed = Requirement(f"python{PROJECT['requires-python']}").specifier
    for name in ("Dockerfile", "Makefile"):
        named = re.findall(r"python:?(3\.\d+)", (ROOT / name).read_text(encoding="utf-8"))
        assert named and all(map(allowed.contains, named)), f"{name}: {named}"
