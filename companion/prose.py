"""Plain English out of docstrings: paragraphs without code, doctests, tables, markup, addresses."""

import re
from collections.abc import Iterator

DROPPED_SECTIONS = {"see also", "references", "methods", "attributes"}  # hardly a sentence in them
RULE = re.compile(r"\s*([=\-~^*#+\"_])\1{2,}\s*$")  # what underlines a title
COLUMNS = re.compile(r"[=\-]{2,}( +[=\-]{2,})+$")  # begins a table that ends with a blank line
TABLE = re.compile(r"\s*([|+][ \-=+|]|\S.* \| .* \|)")
CODE = re.compile(
    r"\.\. *(\w+-)*(code|plot|ipython|math|image|figure|table|literal|test\w+|doctest|only|toctree|index)|"
    r"\.\. *[\[_|]"
)
MARKER = re.compile(r"\.\. *[\w:-]+:: *[\d.]*|[-*•] |\d+[.)] |:\w+[^:]*: |@\w+ ")  # a bullet, ":param x: "
NAME = re.compile(r"\*{0,2}[\w`]+( \([^)]*\))?: ")  # "axis: ", "axis (int): "
ITEM = re.compile(f"{MARKER.pattern}|{NAME.pattern}")
TERM = re.compile(r"[`*.\w, ()\[\]{}'|-]+( : .*|:)?$")  # "axis : int, optional" over its description
WORD = re.compile(r"[A-Za-z]+(['’/-][A-Za-z]+)*$")
SIGNATURE = re.compile(r"\A[\w.]+\((?:(?!\n\n).)*?\)( -> [^\n]*)?\n(--\n)?\s*\n", re.DOTALL)
MARKUP = (
    (re.compile(r"\[([^\]]+)\]\(\S*\)"), r"\1"),  # [text](link)
    (re.compile(r":[\w:+-]+:`~?([^`<]*?) ?(<[^`]*>)?`"), r"\1"),  # :role:`text`
    (re.compile(r"`([^`<]*?) ?<[^`]*>`_{1,2}"), r"\1"),  # `text <link>`_
    (re.compile(r"\[\w+\]_|<[\w/][^<>]*>"), " "),  # footnotes, tags
    (re.compile(r"`+~?|(?<![\w*])\*{1,2}(?=\w)|(?<=[\w.)])\*{1,2}(?![\w*])"), ""),  # `code`, *emphasis*
)
ADDRESS = re.compile(r"://|www\.|\w@\w")


def paragraphs(doc: str) -> list[str]:
    """The prose of a docstring.

    Args:
        doc: A docstring, its indentation cleaned (`inspect.cleandoc`).
    Returns:
        Paragraphs of one line each, the summary first; empty when the summary is no prose.
    """
    blocks = [
        block
        for title, lines in sections(doc)
        if title.lower() not in DROPPED_SECTIONS
        for block in _blocks(_without_code(lines))
    ]
    found = [_plain(" ".join(block)) for block in blocks]
    if not found or not is_prose(found[0], 3):
        return []
    return found[:1] + [text for text in found[1:] if is_prose(text, 5)]


def sections(doc: str) -> list[tuple[str, list[str]]]:
    """Split at underlined titles, as numpy's docstrings have them.

    Args:
        doc: A docstring, its indentation cleaned.
    Returns:
        (title, lines) pairs; what stands before the first title has the title "".
    """
    found = [("", [])]
    lines = SIGNATURE.sub("", doc).splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=False):
        if RULE.match(below) and line.strip() and not RULE.match(line) and len(line.split()) <= 6:
            found.append((line.strip(), []))
        elif not RULE.match(line):
            found[-1][1].append(line)
    return found


def is_prose(text: str, least: int) -> bool:
    """Whether a line reads as English: `least` plain words or more, and they are two thirds of it."""
    tokens = [token.strip(".,;:!?()\"'") for token in text.split()]
    words = sum(bool(WORD.match(token)) for token in tokens)
    return words >= max(least, len(tokens) * 2 / 3) and not any(
        sign in text for sign in ("%(", "{", "\\", "= ")
    )


def _without_code(lines: list[str]) -> Iterator[str]:
    fenced, margin, skipped = False, None, False  # margin: the indentation that ends a literal block
    for line in lines:
        bare = line.strip()
        indent = len(line) - len(line.lstrip())
        skipped = bool(bare) and (skipped or bare.startswith(">>>") or bool(COLUMNS.match(bare)))
        if bare.startswith(("```", "~~~")):
            fenced = not fenced
        elif margin is not None and (not bare or indent > margin):
            yield ""
        elif fenced or skipped or TABLE.match(line):
            margin = None
            yield ""
        else:
            is_code = bool(CODE.match(bare))
            margin = indent if is_code or bare.endswith("::") else None
            yield "" if is_code else line.replace("::", ":") if margin is not None else line


def _blocks(lines: Iterator[str]) -> Iterator[list[str]]:
    """Lines that belong together: up to a blank line, a list item, a smaller indentation."""
    block, last = [], 0
    for line in [*lines, ""]:
        bare, indent = line.strip(), len(line) - len(line.lstrip())
        if len(block) == 1 and indent > last and TERM.match(block[0]) and not ITEM.match(block[0]):
            block = []  # a term over its description, or "Args:"
        begins = not bare or indent < last or ITEM.match(bare)
        if block and begins:
            yield block
            block = []
        if bare:
            block, last = [*block, bare], indent


def _plain(text: str) -> str:
    text = MARKER.sub("", text, count=1) if MARKER.match(text) else text
    named = NAME.match(text)
    text = text[named.end() :] if named and len(text) > named.end() else text
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    text = " ".join(word for word in text.split() if not ADDRESS.search(word))
    return re.sub(r" (?=[.,;:)](\s|$))", "", text)
