"""Source files of installed packages, read with ast and never imported; what was read is kept on disk."""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from companion.cache import cache_folder

PACKAGES = ("stdlib", "numpy", "keras", "tensorflow", "matplotlib", "pandas", "nltk", "spacy", "seaborn")
# _api holds only new names for what stands elsewhere.
SKIPPED = {"test", "tests", "testing", "site-packages", "dist-packages", "_vendor", "_api"}
DEFINED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
EXTRACTOR = 1  # raise it when extraction changes: what older versions kept is then read anew


class Definition(NamedTuple):
    """A documented class or function, or the module itself (name ""), and its defaults that are literals."""

    name: str
    doc: str
    defaults: dict[str, str]


class Source(NamedTuple):
    """What one source file says: the packages it imports and what it documents."""

    file: str
    package: str
    module: str
    imports: list[str]
    definitions: list[Definition]


def sources(packages: Sequence[str] = PACKAGES) -> list[Source]:
    """Read the source files of installed packages, tests left out.

    Args:
        packages: Import names; "stdlib" is Python's own library. What is not installed, or comes without
            sources, is skipped with one warning that names it.
    Returns:
        Sources in the order of the packages, alphabetical within each.
    """
    rows = [row for package in installed(packages) for row in _kept_rows(package)]
    return [Source(*row[:4], [Definition(*item) for item in row[4]]) for row in rows]


def installed(packages: Sequence[str]) -> list[str]:
    """Those of some packages whose sources are there; one warning names the others."""
    found = [package for package in packages if any(True for _ in _paths(package))]
    if missing := [package for package in packages if package not in found]:
        warnings.warn(f"not installed, or without sources, and skipped: {', '.join(missing)}.", stacklevel=3)
    return found


def version(package: str) -> str:
    """The installed version of a package, "" when there is none."""
    if package == "stdlib":
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # tensorflow may come as tensorflow-cpu
        return ", ".join(
            sorted(importlib.metadata.version(name) for name in _distributions().get(package, []))
        )


def literal(package: str, path: str, name: str, default: Any) -> Any:
    """The value that a source file assigns to a name, if it is written out as a literal.

    Args:
        package: Import name.
        path: File inside the package, with forward slashes.
        name: The variable.
        default: What to return, with a warning, when there is no such file or assignment.
    Returns:
        The first literal value.
    """
    tree = _tree((_folder(package) or Path()) / path)
    for node in tree.body if tree else []:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            if _is_literal(node.value):
                return ast.literal_eval(node.value)
    warnings.warn(f"{name} was not found in {path} of {package}.", stacklevel=3)
    return default


def kept(name: str, key: Any, build: Callable[[], list]) -> list:
    """Rows from the cache folder; built, and written there, if they are missing, stale or damaged.

    Args:
        name: File name without suffix.
        key: What the rows depend on, as JSON; another key makes them stale.
        build: Makes the rows, each a JSON list.
    Returns:
        The rows.
    """
    path = cache_folder() / f"{name}.jsonl"
    try:
        header, body = path.read_text("ascii").split("\n", 1)
        if header == _header(key, body):
            return [json.loads(line) for line in body.splitlines()]
    except (OSError, ValueError):
        pass
    body = "".join(json.dumps(row) + "\n" for row in build())
    try:
        _write(path, f"{_header(key, body)}\n{body}")
    except OSError as error:
        warnings.warn(f"{path} cannot be written, so it will be built again next time: {error}", stacklevel=4)
    return [json.loads(line) for line in body.splitlines()]


def _header(key: Any, body: str) -> str:
    return json.dumps({"key": [EXTRACTOR, key], "sha256": hashlib.sha256(body.encode()).hexdigest()})


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii", newline="\n") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _kept_rows(package: str) -> list:
    def read():
        files = tqdm(sorted(_paths(package)), desc=f"reading {package}")
        return [row for path in files if (row := _row(path, folder, package))]

    folder = _folder(package)
    return kept(f"sources-{package}", [version(package), str(folder)], read)


@functools.cache
def _distributions() -> dict:
    return importlib.metadata.packages_distributions()


def _folder(package: str) -> Path | None:
    if package == "stdlib":
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)  # finds, does not import
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _paths(package: str) -> Iterator[Path]:
    folder = _folder(package)
    for path in folder.rglob("*.py") if folder else ():
        if SKIPPED.isdisjoint(path.relative_to(folder).parts):
            yield path


def _row(path: Path, folder: Path, package: str) -> list | None:
    tree = _tree(path)
    if tree is None:
        return None
    inside = path.relative_to(folder)
    parts = [*([package] if package != "stdlib" else []), *inside.with_suffix("").parts]
    module = ".".join(parts).removesuffix(".__init__")
    statements = [(tree, ""), *_statements(tree, "")]
    imports = {name for node, _ in statements for name in _imported(node)}
    documented = [list(item) for node, name in statements for item in _definitions(node, name) if item.doc]
    return [f"{package}/{inside.as_posix()}", package, module, sorted(imports), documented]


def _tree(path: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in other people's strings
            return ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _statements(node: ast.AST, name: str) -> Iterator[tuple[ast.AST, str]]:
    """All statements below a node, each with the name of the definition that it is or stands in."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, block, ()):
            inner = f"{name}.{child.name}".lstrip(".") if isinstance(child, DEFINED) else name
            yield child, inner
            yield from _statements(child, inner)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return [node.module.split(".")[0]] if isinstance(node, ast.ImportFrom) and not node.level else []


def _definitions(node: ast.AST, name: str) -> Iterator[Definition]:
    if isinstance(node, (ast.Module, *DEFINED)):
        yield Definition(name, ast.get_docstring(node) or "", _defaults(node))
    elif isinstance(node, ast.Expr) and getattr(getattr(node.value, "func", None), "id", "") == "add_newdoc":
        yield from _added(node.value.args)


def _added(arguments: list[ast.expr]) -> Iterator[Definition]:
    """numpy documents what is written in C by add_newdoc(place, name, doc), or with (attribute, doc)."""
    if len(arguments) == 3 and all(_is_literal(argument) for argument in arguments):
        _, name, docs = (ast.literal_eval(argument) for argument in arguments)
        docs = docs if isinstance(docs, list) else [docs if isinstance(docs, tuple) else ("", docs)]
        for attribute, doc in docs:
            yield Definition(f"{name}.{attribute}".rstrip("."), inspect.cleandoc(doc), {})


def _defaults(node: ast.AST) -> dict[str, str]:
    if isinstance(node, ast.ClassDef):  # a class documents the arguments of its __init__
        node = next((child for child in node.body if getattr(child, "name", "") == "__init__"), None)
    if not isinstance(node, DEFINED[1:]):
        return {}
    arguments = node.args
    named = arguments.posonlyargs + arguments.args
    pairs = [
        *zip(named[len(named) - len(arguments.defaults) :], arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return {name.arg: ast.unparse(value) for name, value in pairs if value and _is_literal(value)}


def _is_literal(node: ast.AST) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return False
    return True
