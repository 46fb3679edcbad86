"""The library on the reader's desk: prose, pointers, imports and defaults in the sources of packages."""

import ast
import hashlib
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

from companion.prose import paragraphs, sections
from companion.sources import PACKAGES, installed, kept, literal, sources, version
from companion.splits import near_duplicates

VALUE = r"""("[^"]*"|'[^']*'|-?\d+(?:\.\d+)?(?:e-?\d+)?|True|False|None|\([^()]*\)|\[[^][]*\])"""
DEFAULT = re.compile(rf"[Dd]efaults?(?: value)?(?: is| to|[:=])?\s*`*{VALUE}(?![\w*/+]|\.\d)")


class Docstring(NamedTuple):
    """The prose of one docstring, without code and tables; text is the summary and the body."""

    summary: str
    body: str
    text: str
    package: str
    module: str
    name: str
    file: str


class SeeAlso(NamedTuple):
    """An author's pointer from one documented object to another, each "module.name"."""

    source: str
    target: str
    package: str


class Basket(NamedTuple):
    """The packages that one file imports beside its own."""

    modules: tuple[str, ...]
    package: str
    file: str


class DefaultValue(NamedTuple):
    """A parameter whose docstring and signature state the same default; value is Python source."""

    function: str
    parameter: str
    value: str
    package: str
    file: str


class Topic(NamedTuple):
    """A chapter of Python's built-in help."""

    name: str
    text: str


class Color(NamedTuple):
    """A color as people name it; red, green and blue from 0 to 255."""

    name: str
    red: int
    green: int
    blue: int


class Rule(NamedTuple):
    """A pattern of ELIZA and its answers; %1 stands for what the pattern's first group matched."""

    pattern: str
    answers: tuple[str, ...]


def docstrings(packages: Sequence[str] = PACKAGES) -> list[Docstring]:
    """English prose out of docstrings; the first call reads all sources, later ones what it kept on disk.

    Args:
        packages: Import names; "stdlib" is Python's own library. One warning names those not installed.
    Returns:
        Docstrings in the order of the packages. No paragraph nearly repeats another one: of copies the first
        stays, and a docstring whose summary repeats an earlier one is left out with all it says.
    """
    packages = installed(packages)
    name = "docstrings-" + hashlib.sha256("/".join(packages).encode()).hexdigest()[:8]
    rows = kept(name, [version(package) for package in packages], lambda: _prose(packages))
    return [Docstring(*row) for row in rows]


def see_also(packages: Sequence[str] = PACKAGES) -> list[SeeAlso]:
    """The "See Also" sections as edges; names that lead to nothing documented are left out.

    Args:
        packages: Import names, as for `docstrings`.
    Returns:
        SeeAlso edges, each once, none from an object to itself.
    """
    docs, homes = [], defaultdict(list)
    for file in sources(packages):
        for definition in file.definitions:
            name = f"{file.module}.{definition.name}".rstrip(".")
            docs.append((name, definition.doc, file.package))
            homes[file.package, name.split(".")[-1]].append(name)
    edges = {}
    for source, doc, package in docs:
        for mention in _mentions(doc):
            target = _home(mention, source, homes[package, mention.split(".")[-1]])
            if target not in (None, source):
                edges[SeeAlso(source, target, package)] = None
    return list(edges)


def import_baskets(packages: Sequence[str] = PACKAGES, least: int = 5) -> list[Basket]:
    """What is imported together, file by file.

    Args:
        packages: Import names, as for `docstrings`.
        least: Modules in fewer than this many files are left out.
    Returns:
        Baskets of two modules or more, in alphabetical order.
    """
    files = [(set(file.imports) - {file.package, "__future__"}, file) for file in sources(packages)]
    count = Counter(module for modules, _ in files for module in modules)
    baskets = [(tuple(sorted(m for m in modules if count[m] >= least)), file) for modules, file in files]
    return [Basket(modules, file.package, file.file) for modules, file in baskets if len(modules) > 1]


def default_values(packages: Sequence[str] = PACKAGES) -> list[DefaultValue]:
    """Defaults that a docstring states and the signature confirms.

    Args:
        packages: Import names, as for `docstrings`.
    Returns:
        DefaultValues, one for each such parameter of a function or class.
    """
    found = {}
    for file in sources(packages):
        for definition in file.definitions:
            function = f"{file.module}.{definition.name}"
            for parameter, value in definition.defaults.items():
                if _states(definition.doc, parameter, value):
                    found[function, parameter] = DefaultValue(
                        function, parameter, value, file.package, file.file
                    )
    return list(found.values())


def topics() -> list[Topic]:
    """Chapters of Python's built-in help, those that `help("LOOPING")` shows."""
    return [Topic(*item) for item in sorted(literal("stdlib", "pydoc_data/topics.py", "topics", {}).items())]


def colors() -> list[Color]:
    """Names that people gave to colors in the XKCD survey of 2010; matplotlib keeps them."""
    named = literal("matplotlib", "_color_data.py", "XKCD_COLORS", {})
    return [Color(name.removeprefix("xkcd:"), *bytes.fromhex(value[1:])) for name, value in named.items()]


def eliza() -> list[Rule]:
    """The rules of ELIZA, the conversation program of 1966, as NLTK keeps them."""
    return [
        Rule(pattern, tuple(answers)) for pattern, answers in literal("nltk", "chat/eliza.py", "pairs", ())
    ]


def _prose(packages: Sequence[str]) -> list[list[str]]:
    found = [
        (prose, [file.package, file.module, definition.name, file.file])
        for file in tqdm(sources(packages), desc="cleaning docstrings")
        for definition in file.definitions
        if (prose := paragraphs(definition.doc))
    ]
    first = _firsts([prose[0] for prose, _ in found])
    found = [record for record, is_first in zip(found, first, strict=True) if is_first]
    first = iter(_firsts([text for prose, _ in found for text in prose]))
    kept_prose = [([text for text in prose if next(first)], prose[0], rest) for prose, rest in found]
    return [
        [summary, "\n\n".join(prose[1:]), "\n\n".join(prose), *rest]
        for prose, summary, rest in kept_prose
        if prose[:1] == [summary]
    ]


def _firsts(texts: list[str]) -> list[bool]:
    return [index == first for index, first in enumerate(near_duplicates(texts))]


def _mentions(doc: str) -> Iterator[str]:
    for title, lines in sections(doc):
        for line in lines if title.lower() == "see also" else []:
            if line[:1].strip():  # descriptions are indented
                names = re.sub(r":[\w:]+:|[`~]", "", line).split(" : ")[0]
                yield from (
                    name for name in re.findall(r"[\w.]*\w", names.rstrip(": ")) if not name.isdigit()
                )


def _home(mention: str, source: str, homes: list[str]) -> str | None:
    parts = [part for part in mention.split(".") if part]
    for wanted in (set(parts), set(parts[1:])):  # np.sort: as if it were sort
        if found := [name for name in homes if wanted and wanted <= set(name.split("."))]:
            return min(found, key=lambda name: (-_shared(name, source), name.count("."), name))
    return None


def _shared(one: str, other: str) -> int:
    pairs = list(zip(one.split("."), other.split("."), strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _states(doc: str, parameter: str, value: str) -> bool:
    """Whether the lines about a parameter, its own and the deeper ones below it, give this default."""
    names = rf"(?::param )?(?:[\w`*]+, )*[`*]*{parameter}[`*]*(?:, \w+)*"
    head = "efault" in doc and re.search(rf"^([ \t]*){names} ?(?:\([^)]*\) ?)?:.*", doc, re.M)
    if not head:
        return False
    below = re.match(rf"(?:\n{head[1]}[ \t]+\S.*)*", doc[head.end() :])[0]
    return any(_same(stated, value) for stated in DEFAULT.findall(head[0] + " ".join(below.split("\n"))))


def _same(one: str, other: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in other people's strings
            return repr(ast.literal_eval(one)) == repr(ast.literal_eval(other))
    except (ValueError, SyntaxError):
        return False
