import base64
import html
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from companion.explorer import MAX_CHARACTERS, MAX_ROWS, attention_explorer

HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "<!--<script>",
    "\"'&amp;",
    "</iframe><img src=x onerror=window.hacked=1>",
    "{{data}}",
]
UNSEEN = {
    "": "∅",
    " ": "␣",
    "a b": "a␣b",
    "\n": "⏎",
    "\x00": "␀",
    "\t": "␉",
    "\x7f": "␡",
    "\x85": "‹U+0085›",
    "\u2028": "‹U+2028›",
    "\u202eabc\u202c": "‹RLO›abc‹PDF›",
    "\u2067x\u2069": "‹RLI›x‹PDI›",
    "\u200f": "‹RLM›",
    "\ufeffa": "‹U+FEFF›a",
    "\ud800": "‹U+D800›",
    "\u3164": "‹U+3164›",
    "\u00a0": "‹U+00A0›",
    "\u200d": "‹U+200D›",
    "\u0301": "◌\u0301",
}
SEEN = ["猫", "e\u0301", "👨\u200d👩\u200d👧", "🇨🇳", "✌\ufe0f", "שלום", "##ing", "Ġthe", "می\u200cخواهم"]


def attention(*shape, seed=0):
    scores = np.exp(3 * np.random.default_rng(seed).normal(size=shape))
    return scores / scores.sum(-1, keepdims=True)


def explorer(sources, targets=None, **settings):
    rows = sources if targets is None else targets
    return attention_explorer(attention(2, 3, len(rows), len(sources)), sources, targets, **settings)


class Page(HTMLParser):
    """What a page holds, as a browser reads it: its tags, and the text within each kind of tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], {}, None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append(dict(attributes))
        self.open = tag

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        self.texts.setdefault(self.open, []).append(data)


def read(text):
    """The data of a page, its weights unpacked to floats."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])
    steps = zlib.decompress(base64.b64decode(data["weights"]))
    kind = "<u2" if data["levels"] == 65535 else "u1"
    data["weights"] = (np.frombuffer(steps, kind) / data["levels"]).reshape(data["shape"]) ** 2
    return data


def test_the_page_holds_the_weights_within_what_it_says():
    fine = attention(2, 3, 4, 5)
    data = read(attention_explorer(fine, "abcde", "wxyz").html)
    assert (data["shape"], data["levels"], data["same"]) == ([2, 3, 4, 5], 65535, False)
    assert abs(data["weights"] - fine).max() <= 0.00002
    coarse = attention(2, 4, 96, 96)
    data = read(attention_explorer(coarse, ["a"] * 96).html)
    assert (data["levels"], data["same"]) == (255, True)
    assert abs(data["weights"] - coarse).max() <= 0.004
    small = coarse <= 0.01
    assert abs(data["weights"] - coarse)[small].max() <= 0.0004


def test_zero_and_one_are_exact():
    weights = np.eye(3)[None, None] * np.array([1, 0, 1])[:, None]  # a row that attends to nothing
    np.testing.assert_array_equal(read(attention_explorer(weights, "abc").html)["weights"], weights)


def test_the_size_is_bounded_at_the_largest_size():
    diffuse = np.random.default_rng(0).dirichlet(np.full(128, 0.5), size=(12, 12, 128))
    tokens = [f"token{i}" for i in range(128)]
    shown = attention_explorer(diffuse, tokens)
    assert len(shown.html.encode()) <= 3_000_000 and len(shown._repr_html_().encode()) <= 3_000_000
    causal = attention_explorer(np.tril(diffuse) / np.tril(diffuse).sum(-1, keepdims=True), tokens)
    assert len(causal.html) < 0.65 * len(shown.html)


def test_the_page_opens_as_asked():
    data = read(explorer("ab", "cde", title="题", view="grid", layer=1, head=2).html)
    assert [data[name] for name in ("title", "view", "layer", "head")] == ["题", "grid", 1, 2]
    data = read(explorer("ab", layer=np.int64(1)).html)
    assert [data[name] for name in ("title", "view", "layer", "head")] == [
        "Attention · 注意力",
        "heads",
        1,
        None,
    ]
    assert data["sources"] == data["targets"] == ["a", "b"]


def test_the_same_arguments_give_the_same_bytes():
    one, other = explorer("abc", title="x"), explorer(list("abc"), title="x")
    assert one.html == other.html and one._repr_html_() == other._repr_html_()
    assert one.html != explorer("abd", title="x").html


@pytest.mark.parametrize(("token", "shown"), UNSEEN.items(), ids=map(ascii, UNSEEN))
def test_what_would_not_be_seen_has_a_sign_or_a_name(token, shown):
    data = read(explorer([token, "b"]).html)
    assert data["sources"] == data["targets"] == [shown, "b"]


def test_what_is_seen_stays_as_it_is():
    assert read(explorer(SEEN).html)["sources"] == SEEN


def test_long_tokens_and_titles_are_cut():
    data = read(explorer(["x" * 10**6, "x" * MAX_CHARACTERS], title="y" * 10**6).html)
    assert data["sources"] == ["x" * MAX_CHARACTERS + "…", "x" * MAX_CHARACTERS]
    assert data["title"] == "y" * MAX_CHARACTERS + "…"


@pytest.mark.parametrize("text", HOSTILE)
def test_tokens_and_titles_stay_text(text):
    calm, hostile = explorer(["a", "b"], title="t"), explorer([text, "b"], title=text)
    for one, other in ((calm.html, hostile.html), (calm._repr_html_(), hostile._repr_html_())):
        calm_page, page = Page(one), Page(other)
        assert page.tags == calm_page.tags  # not one tag more
        assert list(map(set, page.attributes)) == list(map(set, calm_page.attributes))
        assert "bdi" in page.tags and page.texts["bdi"][0] == text.replace(" ", "␣")
    page = Page(hostile.html)
    assert page.texts["title"] == [text]
    assert read(hostile.html)["title"] == text


def test_the_data_cannot_leave_its_script():
    text = explorer([*HOSTILE, *UNSEEN], title=HOSTILE[0]).html
    data = re.search(r'id="data">(.*?)</script>', text)[1]
    assert data.isascii() and not set(data) & set("<>&")


def test_a_notebook_gets_the_page_in_a_frame_and_a_table_before_it():
    shown = explorer(["我", "<b>"], title='"t"')
    frame = Page(shown._repr_html_())
    at = frame.tags.index("iframe")
    inner = frame.attributes[at]["srcdoc"]
    assert frame.attributes[at]["title"] == '"t"' and "table" in frame.tags[:at]
    assert read(inner)["sources"] == ["我", "<b>"]
    assert "script" not in frame.tags and not any("id" in names for names in frame.attributes)
    assert html.escape(inner) in shown._repr_html_()


def test_the_table_names_the_strongest_sources_of_each_target():
    weights = np.zeros((2, 1, 2, 4))
    weights[0, 0] = [[0.7, 0.1, 0.2, 0], [0, 0, 0, 1]]
    weights[1, 0] = [[0.5, 0.3, 0.2, 0], [0, 0.5, 0, 0.5]]
    page = Page(attention_explorer(weights, "abcd", "xy").html)
    assert page.texts["bdi"][:8] == ["x", "a", "b", "c", "y", "d", "b", "a"]
    assert [text.strip() for text in page.texts[None] if re.fullmatch(r" \d\.\d\d", text)] == (
        ["0.60", "0.20", "0.20", "0.75", "0.25", "0.00"]
    )


def test_the_table_is_short():
    many = Page(explorer(["a"] * 100).html)
    assert many.texts["bdi"].count("a") == 4 * MAX_ROWS
    assert f"the first {MAX_ROWS} of 100" in "".join(many.texts["caption"])


def test_the_page_needs_and_allows_nothing_from_outside():
    page = Page(explorer("abc").html)
    rules = [names["content"] for names in page.attributes if "http-equiv" in names]
    assert rules[0].startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'")
    assert not any({"src", "href"} & set(names) for names in page.attributes)
    template = Path(attention_explorer.__code__.co_filename).with_suffix(".html").read_text(encoding="utf-8")
    for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert risky not in template
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp|localStorage|cookie", template)


def test_saving_writes_one_whole_file(tmp_path, monkeypatch):
    shown = explorer(SEEN, title="题")
    path = tmp_path / "new" / "attention.html"
    shown.save(str(path))
    assert path.read_text(encoding="utf-8") == shown.html
    assert [file.name for file in path.parent.iterdir()] == ["attention.html"]
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        explorer("ab").save(path)
    assert path.read_text(encoding="utf-8") == shown.html
    assert [file.name for file in path.parent.iterdir()] == ["attention.html"]


def test_it_says_what_it_shows():
    assert repr(explorer("ab", "cde")) == (
        "AttentionExplorer(2 layers, 3 heads, 3 target and 2 source tokens)"
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"weights": np.full((2, 3, 2), 0.5)},
            ValueError,
            r"weights must have shape .* received \(2, 3, 2\)",
        ),
        (
            {"weights": np.full((1, 1, 3, 2), 0.5)},
            ValueError,
            r"\(layers, heads, 2, 2\); received \(1, 1, 3, 2\)",
        ),
        ({"weights": np.zeros((0, 1, 2, 2))}, ValueError, r"received \(0, 1, 2, 2\)"),
        ({"weights": np.full((1, 1, 2, 2), np.nan)}, ValueError, "weights must be finite; received 4"),
        (
            {"weights": np.full((1, 1, 2, 2), 2.0)},
            ValueError,
            r"weights must be in \[0, 1\]; received 2 to 2",
        ),
        ({"weights": [[[[0.5, 0.5], [0.5, 0.9]]]]}, ValueError, r"sum to 1 .* received 1.4 at \[0, 0, 1\]"),
        ({"source_tokens": ["a", 3]}, TypeError, "source_tokens must be strings; received int: 3"),
        ({"target_tokens": ["a", b"b"]}, TypeError, "target_tokens must be strings; received bytes: b'b'"),
        ({"title": 3}, TypeError, "title must be a string or None; received int"),
        ({"view": "tree"}, ValueError, "view must be one of heads, grid, steps; received 'tree'"),
        ({"layer": 1}, ValueError, "layer must be 0 to 0; received 1"),
        ({"layer": -1}, ValueError, "layer must be 0 to 0; received -1"),
        ({"head": 2}, ValueError, "head must be 0 to 1; received 2"),
        ({"head": 0.5}, TypeError, "head must be a whole number; received 0.5"),
    ],
)
def test_bad_input(changes, error, message):
    arguments = {"weights": np.full((1, 2, 2, 2), 0.5), "source_tokens": ["a", "b"], **changes}
    with pytest.raises(error, match=message):
        attention_explorer(**arguments)


def test_half_precision_is_near_enough():
    weights = attention(1, 2, 64, 64).astype("float16")
    assert abs(read(attention_explorer(weights, ["a"] * 64).html)["weights"] - weights).max() < 1e-4
