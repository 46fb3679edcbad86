"""Attention to click through: weights and tokens in, one page of HTML out that needs nothing else."""

import base64
import html
import json
import operator
import os
import re
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

VIEWS = "heads", "grid", "steps"
FINE = 2**16  # up to so many weights 16 bits hold each, beyond it 8
MAX_CHARACTERS = 200  # of a token or title; what is longer ends in an ellipsis
MAX_ROWS = 24  # of the table that stands in where scripts do not run
BIDI = {
    **dict(zip("\u202a\u202b\u202c\u202d\u202e", ("LRE", "RLE", "PDF", "LRO", "RLO"), strict=True)),
    **dict(zip("\u2066\u2067\u2068\u2069", ("LRI", "RLI", "FSI", "PDI"), strict=True)),
    **dict(zip("\u200e\u200f\u061c", ("LRM", "RLM", "ALM"), strict=True)),
}
BLANK = "\u034f\u115f\u1160\u2800\u3164\uffa0"  # letters and signs that show nothing
JOINERS = "\u200c\u200d"  # within an emoji or a word they change how it looks, so they stay
SIGNS = {" ": "␣", "\n": "⏎", "\x7f": "␡", "\u3000": "␣"}


class AttentionExplorer:
    """A page to explore attention in: notebooks show it, `save` writes it, `html` is its text.

    Made by `attention_explorer`. The same arguments give the same text, byte for byte, on one machine.
    """

    def __init__(self, title: str, data: dict, table: str):
        self._title, self._data, self._table = title, data, table

    def __repr__(self):
        layers, heads, targets, sources = self._data["shape"]
        sizes = f"{layers} layers, {heads} heads, {targets} target and {sources} source tokens"
        return f"AttentionExplorer({sizes})"

    def _repr_html_(self) -> str:
        # A frame, not a shadow root: styles, names and scripts of notebook and page stay apart, no id must be
        # invented for several of them, and the notebook's shortcuts do not take the page's arrow keys. The
        # table stands before it for hosts that remove frames; the script of the page hides it.
        page = html.escape(self._page(""), quote=True)
        style = "width:100%;height:640px;border:0;display:block"
        frame = f'<iframe title="{html.escape(self._title)}" style="{style}" srcdoc="{page}"></iframe>'
        return f'<div class="attention-table">{self._table}</div>{frame}'

    @property
    def html(self) -> str:
        """The whole page, with a table of the strongest weights that shows where scripts do not run."""
        return self._page(self._table)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the page as one file that works offline. Whole or not at all.

        Args:
            path: A new file, or one to replace; .html. Missing folders are made.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(self.html, encoding="utf-8", newline="\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _page(self, table):
        template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
        parts = {"title": html.escape(self._title), "table": table, "data": _json(self._data)}
        return re.sub(
            r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template
        )  # once: data may hold such marks


def attention_explorer(
    weights: np.ndarray,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str] | None = None,
    title: str | None = None,
    view: str = "heads",
    layer: int = 0,
    head: int | None = None,
) -> AttentionExplorer:
    """Shows all layers and heads of an attention, to choose from: lines, a grid of maps, step by step.

    Tokens and title may be anything: they are shown, never run, and what would not be seen (spaces, control
    characters, marks that turn the direction of writing) is shown by a sign or its name.

    Args:
        weights: (L, H, T, S) floats in [0, 1]: layers, heads, targets, sources. A row of S sums to 1 or 0.
        source_tokens: S strings, attended to.
        target_tokens: T strings, attending; None: the source tokens, as in self-attention.
        title: Above the view.
        view: What it opens with: "heads" (lines between tokens), "grid" (every layer and head) or "steps"
            (one target token after another).
        layer: The layer it opens with, from 0; on the page they count from 1.
        head: The only head it opens with, from 0; None: all.
    Returns:
        The explorer. Its weights are rounded, and it says how: up to 65,536 of them to within 0.00002; more,
        to within 0.004, small ones finer (0.0004 at 0.01). 128 tokens of 12 layers of 12 heads make a file
        of 3 MB at most.
    Raises:
        ValueError: Weights are not finite, outside [0, 1], or sum to something else; their shape does not fit
            the tokens; there is no such view, layer or head.
        TypeError: A token or the title is no string, layer or head no whole number.
    Source: Vig 2019, "A Multiscale Visualization of Attention in the Transformer Model": its head view and
        model view. Differs: steps through decoding, numbers, no network; without the neuron view.
    """
    targets = source_tokens if target_tokens is None else target_tokens
    _check_tokens(source_tokens=source_tokens, target_tokens=targets)
    weights = _checked(weights, len(targets), len(source_tokens))
    if view not in VIEWS:
        raise ValueError(f"view must be one of {', '.join(VIEWS)}; received {view!r}.")
    if not isinstance(title, str | None):
        raise TypeError(f"title must be a string or None; received {type(title).__name__}.")
    opening = {"view": view, "layer": _index("layer", layer, weights.shape[0])}
    opening["head"] = None if head is None else _index("head", head, weights.shape[1])
    sources, targets = ([_visible(token) for token in tokens] for tokens in (source_tokens, targets))
    title = _visible(title or "Attention · 注意力", {" ": " ", "\u3000": "\u3000"})
    tokens = {"sources": sources, "targets": targets, "same": target_tokens is None}
    data = {"title": title, **_packed(weights), **tokens, **opening}
    return AttentionExplorer(title, data, _table(weights, sources, targets))


def _check_tokens(**arguments):
    for name, tokens in arguments.items():
        wrong = [token for token in tokens if not isinstance(token, str)]
        if wrong:
            raise TypeError(f"{name} must be strings; received {type(wrong[0]).__name__}: {wrong[0]!r}.")


def _checked(weights, targets, sources):
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 4 or not weights.size or weights.shape[2:] != (targets, sources):
        wanted = f"(layers, heads, {targets}, {sources})"
        meaning = "(layers, heads, len(target_tokens), len(source_tokens))"
        raise ValueError(f"weights must have shape {meaning} = {wanted}; received {weights.shape}.")
    if not np.isfinite(weights).all():
        raise ValueError(f"weights must be finite; received {(~np.isfinite(weights)).sum()} that are not.")
    if weights.min() < -1e-3 or weights.max() > 1 + 1e-3:
        raise ValueError(f"weights must be in [0, 1]; received {weights.min():g} to {weights.max():g}.")
    sums = weights.sum(-1)
    off = np.minimum(abs(sums - 1), abs(sums))
    if off.max() > 0.02:  # a row in half precision errs by less
        place = np.unravel_index(off.argmax(), off.shape)
        where = "[" + ", ".join(map(str, place)) + "]"
        raise ValueError(
            f"weights must sum to 1 (or 0) over the sources; received {sums[place]:g} at {where}."
        )
    return weights.clip(0, 1)


def _index(name, value, size):
    try:
        index = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number; received {value!r}.") from None
    if not 0 <= index < size:
        raise ValueError(f"{name} must be 0 to {size - 1}; received {index}.")
    return index


def _packed(weights):
    """Square roots in 8 or 16 bits, so that small weights keep more of their digits; deflated, in base64."""
    levels = 2**16 - 1 if weights.size <= FINE else 2**8 - 1
    steps = np.rint(np.sqrt(weights) * levels).astype("<u2" if levels > 255 else "u1")
    packed = base64.b64encode(zlib.compress(steps.tobytes(), 9)).decode()
    return {"shape": weights.shape, "levels": levels, "weights": packed}


def _visible(token, signs=SIGNS):
    """The token with a sign or a name in place of each character that would not be seen."""
    shown = "".join(_sign(token, i, signs) for i in range(min(len(token), MAX_CHARACTERS)))
    if shown and unicodedata.category(shown[0]).startswith("M"):
        shown = f"◌{shown}"  # a combining character needs something to stand on
    return (shown or "∅") + ("…" if len(token) > MAX_CHARACTERS else "")


def _sign(token, i, signs):
    character = token[i]
    if sign := signs.get(character) or SIGNS.get(character):
        return sign
    if character < " ":
        return chr(0x2400 + ord(character))  # control pictures: ␀, ␉, ␛
    if character in JOINERS and 0 < i < len(token) - 1:
        return character
    if character in BLANK or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs"):
        return f"‹{BIDI.get(character, f'U+{ord(character):04X}')}›"
    return character


def _json(data):
    """JSON that may stand within a script: no `<`, `>` or `&`, and nothing but ASCII."""
    text = json.dumps(data, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _table(weights, sources, targets):
    """What is shown where scripts do not run: the three strongest sources of each target, in the mean."""
    mean = weights.mean((0, 1))
    rows = []
    for token, row in zip(targets[:MAX_ROWS], mean, strict=False):
        strongest = np.argsort(-row, kind="stable")[:3]
        cells = "".join(f"<td><bdi>{html.escape(sources[s])}</bdi> {row[s]:.2f}</td>" for s in strongest)
        rows.append(f'<tr><th scope="row"><bdi>{html.escape(token)}</bdi></th>{cells}</tr>')
    layers, heads = weights.shape[:2]
    sizes = f"mean over layers ({layers}) and heads ({heads})"
    first = f", the first {MAX_ROWS} of {len(targets)}" if len(targets) > MAX_ROWS else ""
    caption = f"Attention, {sizes}: the strongest sources of each target{first}"
    note = "No interactive view below? Scripts are blocked: trust this notebook or run it. 交互视图需要脚本。"
    return f"<table><caption>{caption}</caption><tbody>{''.join(rows)}</tbody></table><p>{note}</p>"
