"""The explorer in a browser: `browser_page` fails a test that reaches for the network or logs an error."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from companion.explorer import attention_explorer

SOURCES = "The cat sat on the mat".split()
TARGETS = ["猫", "坐", "在", "垫子", "上"]
LAYERS, HEADS = 3, 4
HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "<!--<script>",
    "<img src=x onerror=window.hacked=1>",
    "\"><svg onload=window.hacked=1>'",
    "]]>&lt;b&gt;\u2028\x00",
    "\u202egnp.exe",
    "\ud800",
    "</iframe></div>",
    "",
    "x" * 5000,
]
STRICT = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def attention(*shape, seed=0):
    scores = np.exp(2 * np.random.default_rng(seed).normal(size=shape))
    return scores / scores.sum(-1, keepdims=True)


WEIGHTS = attention(LAYERS, HEADS, len(TARGETS), len(SOURCES))


@pytest.fixture
def opened(browser_page, tmp_path):
    """Saves an explorer, opens the file, waits until it is drawn."""

    def open_page(shown=None, **settings):
        shown = shown or attention_explorer(WEIGHTS, SOURCES, TARGETS, **settings)
        shown.save(tmp_path / "attention.html")
        browser_page.goto((tmp_path / "attention.html").as_uri())
        started(browser_page)
        return browser_page

    return open_page


def started(page):
    page.wait_for_selector("main", state="visible")
    settled(page)


def settled(page):
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def hosted(page, body, tmp_path, head=""):
    """Opens a page of another's making that holds the explorers; returns their frames."""
    path = tmp_path / "host.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{head}<body>{body}", encoding="utf-8")
    page.goto(path.as_uri())
    return frames(page)


def frames(page):
    found = [handle.content_frame() for handle in page.query_selector_all("iframe")]
    for frame in found:
        started(frame)
    return found


def numbers(page):
    """The table of numbers, row by row: (token, [numbers])."""
    settled(page)
    script = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    rows = page.eval_on_selector_all("#numbers tbody tr", script)
    return [(cells[0], [float(cell) for cell in cells[2:]]) for cells in rows]


def means(page):
    return np.array([values[0] for _, values in numbers(page)])


def near(actual, expected, tolerance=0.0001):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def token(page, side, index):
    return page.locator(f"#{side} button").nth(index)


def drawn_rows(page, side):
    """The tokens from (or to) which a line is drawn, as the canvas shows at its left (or right) edge."""
    settled(page)
    script = """([side, count]) => {
        const canvas = document.getElementById("lines");
        const scale = canvas.height / canvas.getBoundingClientRect().height;
        const row = document.querySelector("#targets button").getBoundingClientRect().height * scale;
        const x = side === "targets" ? 4 * scale : canvas.width - 5 * scale;
        const at = (i) => canvas.getContext("2d").getImageData(x, i * row, 1, row).data;
        return [...Array(count).keys()].filter(i => at(i).some((value, j) => j % 4 === 3 && value > 20));
    }"""
    count = page.locator(f"#{side} button").count()
    return page.evaluate(script, [side, count])


def head_colors(page):
    """The numbers (from 0) of the heads whose color the canvas shows."""
    settled(page)
    script = """() => {
        const canvas = document.getElementById("lines");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const colors = [...document.querySelectorAll("#chosen .chip")].map(chip =>
            chip.style.getPropertyValue("--color").match(/\\w\\w/g).map(part => parseInt(part, 16)));
        const seen = colors.map(() => 0);
        for (let i = 0; i < data.length; i += 4) {
            if (data[i + 3] < 150) continue;
            colors.forEach((color, head) => {
                seen[head] += color.every((value, j) => Math.abs(value - data[i + j]) < 6);
            });
        }
        return seen.flatMap((pixels, head) => pixels > 20 ? [head] : []);
    }"""
    return page.evaluate(script)


def test_hovering_over_a_token_shows_its_lines_and_weights(opened):
    page = opened()
    assert drawn_rows(page, "targets") == list(range(len(TARGETS)))
    near(means(page), WEIGHTS[0].mean((0, 1)))
    token(page, "targets", 3).hover()
    assert drawn_rows(page, "targets") == [3]
    assert "垫子\u2069 (target 4)" in page.inner_text("#of")
    assert [label for label, _ in numbers(page)] == SOURCES
    near(means(page), WEIGHTS[0, :, 3].mean(0))
    strongest = SOURCES[WEIGHTS[0, :, 3].mean(0).argmax()]
    assert re.search(f"垫子\\W+attends most to\\W+{strongest}", page.inner_text("#status"))
    token(page, "sources", 1).hover()
    assert drawn_rows(page, "sources") == [1]
    assert [label for label, _ in numbers(page)] == TARGETS
    near(means(page), WEIGHTS[0, :, :, 1].mean(0))
    page.mouse.move(5, 5)
    near(means(page), WEIGHTS[0].mean((0, 1)))


def test_of_many_equal_weights_some_are_drawn(opened):
    page = opened(attention_explorer(np.tile(np.eye(96), (1, 8, 1, 1)), [f"t{i}" for i in range(96)]))
    assert len(drawn_rows(page, "targets")) > 90  # 600 of 768 lines, most rows with some of their eight


def test_a_row_without_weights_attends_to_nothing(opened):
    weights = WEIGHTS.copy()
    weights[:, :, 1] = 0
    page = opened(attention_explorer(weights, SOURCES, TARGETS))
    token(page, "targets", 1).hover()
    settled(page)
    assert "attends most to nothing" in page.inner_text("#status")


def test_a_click_pins_a_token_until_it_is_let_go(opened):
    page = opened()
    token(page, "targets", 1).click()
    settled(page)
    assert token(page, "targets", 1).get_attribute("aria-pressed") == "true"
    token(page, "targets", 4).hover()
    near(means(page), WEIGHTS[0, :, 1].mean(0))
    page.mouse.move(5, 5)
    assert drawn_rows(page, "targets") == [1]
    token(page, "sources", 2).click()  # the pin moves
    page.mouse.move(5, 5)
    near(means(page), WEIGHTS[0, :, :, 2].mean(0))
    assert page.locator("[aria-pressed=true]", has_text="sat").count() == 1
    assert token(page, "targets", 1).get_attribute("aria-pressed") == "false"
    page.keyboard.press("Escape")
    near(means(page), WEIGHTS[0].mean((0, 1)))
    token(page, "targets", 0).click()
    token(page, "targets", 0).click()
    settled(page)
    assert token(page, "targets", 0).get_attribute("aria-pressed") == "false"


def test_layers_are_switched_by_click_and_by_arrow(opened):
    page = opened(layer=1)
    near(means(page), WEIGHTS[1].mean((0, 1)))
    page.locator("#layers .chip").nth(2).click()
    near(means(page), WEIGHTS[2].mean((0, 1)))
    assert "layer 3" in page.inner_text("#of")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    near(means(page), WEIGHTS[0].mean((0, 1)))


def test_heads_are_chosen(opened):
    page = opened()
    assert head_colors(page) == [0, 1, 2, 3]
    page.locator("#chosen .chip").nth(1).click()
    page.keyboard.press("ArrowRight")  # roving: the next box, unchecked by the space bar
    page.keyboard.press("Space")
    assert head_colors(page) == [0, 3]
    near(means(page), WEIGHTS[0, [0, 3]].mean((0, 1)))
    page.click("#none")
    settled(page)
    assert head_colors(page) == [] and "no head is chosen" in page.inner_text("#of")
    page.locator("#chosen .chip").nth(2).click()
    assert head_colors(page) == [2]
    near(means(page), WEIGHTS[0, 2].mean(0))
    page.click("#all")
    assert head_colors(page) == [0, 1, 2, 3]


def test_it_can_open_with_one_head(opened):
    page = opened(head=2, layer=2)
    assert head_colors(page) == [2]
    near(means(page), WEIGHTS[2, 2].mean(0))


def test_the_grid_shows_each_head_and_opens_it(opened):
    page = opened(view="grid")
    assert not page.is_visible("#chosen") and not page.is_visible("aside")  # all are shown, and no numbers
    script = """canvases => canvases.map(canvas => [canvas.width, canvas.height,
        [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]])"""
    maps = page.eval_on_selector_all("#maps canvas", script)
    assert len(maps) == LAYERS * HEADS
    for i, (width, height, pixels) in enumerate(maps):
        assert (width, height) == (len(SOURCES), len(TARGETS))
        opacity = np.array(pixels).reshape(height, width, 4)[..., 3] / 255
        near(opacity, WEIGHTS[i // HEADS, i % HEADS] ** 0.35, 0.005)
    script = "canvas => getComputedStyle(canvas).imageRendering"  # few cells have sharp edges
    assert page.eval_on_selector("#maps canvas", script) == "pixelated"
    page.click("[aria-label='layer 2, head 3']")
    settled(page)
    assert page.get_attribute("#tab-heads", "aria-selected") == "true"
    assert page.is_visible("#heads") and not page.is_visible("#grid")
    near(means(page), WEIGHTS[1, 2].mean(0))
    assert head_colors(page) == [2]


def test_the_grid_is_walked_by_arrows(opened):
    page = opened(view="grid")
    page.focus("[aria-label='layer 1, head 1']")
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowUp", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.ariaLabel") == "layer 2, head 2"
    assert page.locator("#maps [tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    near(means(page), WEIGHTS[1, 1].mean(0))


def test_decoding_is_stepped_through_by_slider_buttons_and_tokens(opened):
    page = opened(view="steps")
    near(means(page), WEIGHTS[0, :, 0].mean(0))
    page.focus("#step")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    near(means(page), WEIGHTS[0, :, 2].mean(0))
    assert page.get_attribute("#step", "aria-valuetext") == "3 / 5: 在"
    assert page.inner_text("#written [aria-current=true]") == "在"
    assert page.locator("#written .later").all_inner_texts() == TARGETS[3:]
    page.click("#after")
    page.keyboard.press("ArrowRight")  # on the button, too
    near(means(page), WEIGHTS[0, :, 4].mean(0))
    assert page.get_attribute("#after", "aria-disabled") == "true"
    page.keyboard.press("ArrowLeft")  # at the end the button keeps the focus
    near(means(page), WEIGHTS[0, :, 3].mean(0))
    page.locator("#written button").nth(1).click()
    near(means(page), WEIGHTS[0, :, 1].mean(0))
    page.locator("#step").fill("5")
    near(means(page), WEIGHTS[0, :, 4].mean(0))
    script = "spans => spans.map(span => +(span.style.background.match(/([\\d.]+)\\)/)?.[1] ?? 0))"
    shades = page.eval_on_selector_all("#seen span", script)
    near(shades, 0.7 * np.sqrt(WEIGHTS[0, :, 4].mean(0)), 0.011)


def test_a_pinned_target_is_the_step(opened):
    page = opened()
    token(page, "targets", 2).click()
    page.click("#tab-steps")
    settled(page)
    assert page.inner_text("#written [aria-current=true]") == "在"


def test_the_numbers_are_the_weights(opened):
    page = opened()
    page.click("#show-numbers")
    assert page.get_attribute("#show-numbers", "aria-pressed") == "true"
    for layer in range(LAYERS):
        page.locator("#layers .chip").nth(layer).click()
        for target in range(len(TARGETS)):
            token(page, "targets", target).click()
            table = np.array([values for _, values in numbers(page)])
            near(table[:, 0], WEIGHTS[layer, :, target].mean(0), 0.00008)  # 4 decimals, and the rounding
            near(table[:, 1:], WEIGHTS[layer, :, target].T, 0.00008)
    page.click("#strongest")
    order = [label for label, _ in numbers(page)]
    assert order == [SOURCES[i] for i in np.argsort(-WEIGHTS[-1, :, -1].mean(0))]
    heads = page.locator("#numbers thead th").all_inner_texts()
    assert heads == ["source", "mean", "head 1", "head 2", "head 3", "head 4"]


def test_the_largest_size(opened):
    weights = attention(12, 12, 128, 128)
    shown = attention_explorer(weights, [f"token{i}" for i in range(128)])
    assert len(shown.html.encode()) <= 3_000_000
    page = opened(shown)
    assert page.evaluate("performance.getEntriesByName('explorer-drawn').length") == 1
    assert "small ones finer" in page.inner_text("#precision")
    page.click("#show-numbers")
    page.click("#strongest")  # back to their order in the text
    page.locator("#layers .chip").nth(11).click()
    token(page, "targets", 127).click()
    table = np.array([values for _, values in numbers(page)])
    near(table[:, 1:], weights[11, :, 127].T, 0.0045)
    page.click("#tab-grid")
    settled(page)
    assert page.locator("#maps canvas").count() == 144
    page.click("[aria-label='layer 12, head 12']")
    near(means(page), weights[11, 11, 127], 0.0045)


@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_tokens(opened, count):
    page = opened(attention_explorer(np.full((1, 1, count, count), 1 / count), ["你", "好"][:count]))
    near(means(page), 1 / count)
    assert drawn_rows(page, "sources") == list(range(count))
    for view in ("grid", "steps", "heads"):
        page.click(f"#tab-{view}")
        settled(page)
        assert page.is_visible(f"#{view}")


def test_tokens_of_any_script_fit_their_rows(opened):
    tokens = ["我", "👨\u200d👩\u200d👧", "e\u0301\u0302\u0303", "नमस्ते", "שלום", "very" * 40, "", "\n"]
    page = opened(attention_explorer(attention(1, 2, 8, 8), tokens))
    boxes = [token(page, "targets", i).bounding_box() for i in range(8)]
    canvas = page.locator("#lines").bounding_box()
    for i, box in enumerate(boxes):
        assert box["height"] == 30 and box["y"] == pytest.approx(canvas["y"] + 30 * i, abs=1)
        assert box["x"] + box["width"] <= canvas["x"] + 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


CONTRASTS = """() => {
    const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (rgb) => rgb.slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (element) => {
        if (!element) return [255, 255, 255];
        const [r, g, b, a = 1] = numbers(getComputedStyle(element).backgroundColor);
        if (a === 1) return [r, g, b];
        return ground(element.parentElement).map((v, i) => v * (1 - a) + [r, g, b][i] * a);
    };
    const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
    const found = [];
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
        if (element.closest("[disabled]")) continue;
        const color = numbers(getComputedStyle(element).color);
        found.push([walker.currentNode.data, ratio(color, ground(element))]);
    }
    const page = numbers(getComputedStyle(document.body).backgroundColor);
    const colors = [...document.querySelectorAll("#chosen .chip")].map(chip =>
        chip.style.getPropertyValue("--color").match(/\\w\\w/g).map(part => parseInt(part, 16)));
    return { texts: found, colors: colors.map(color => ratio(color, page)) };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["heads", "grid", "steps"])
def test_texts_and_lines_stand_out(browser_page, opened, scheme, view):
    browser_page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    sharp = np.tile(np.eye(6), (2, 8, 1, 1))  # the strongest shade there is
    page = opened(attention_explorer(sharp, SOURCES, view=view))
    if view == "heads":
        token(page, "targets", 1).click()
        settled(page)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts["texts"]) > 20 and len(contrasts["colors"]) == 8
    assert [text for text in contrasts["texts"] if text[1] < 4.5] == []
    assert min(contrasts["colors"]) >= 3  # of lines; beside their color, heads have numbers


def test_light_and_dark(browser_page, opened):
    def ground():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    browser_page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page = opened()
    assert ground() == "rgb(20, 23, 28)" and page.get_attribute("#theme", "aria-pressed") == "true"
    page.click("#theme")
    assert ground() == "rgb(255, 255, 255)" and page.get_attribute("#theme", "aria-pressed") == "false"
    page.click("#theme")
    assert ground() == "rgb(20, 23, 28)"
    assert page.evaluate("getComputedStyle(document.querySelector('button')).transitionDuration") == "0s"
    page.emulate_media(color_scheme="light", reduced_motion="no-preference")
    page = opened()
    assert ground() == "rgb(255, 255, 255)" and page.get_attribute("#theme", "aria-pressed") == "false"
    page.emulate_media(color_scheme="dark")
    settled(page)
    assert ground() == "rgb(20, 23, 28)" and page.get_attribute("#theme", "aria-pressed") == "true"
    assert page.evaluate("getComputedStyle(document.querySelector('button')).transitionDuration") != "0s"


def test_everything_is_reached_by_keyboard_and_seen_to_be(opened):
    page = opened()
    stops = []
    for _ in range(20):
        page.keyboard.press("Tab")
        active = "document.activeElement"
        if page.evaluate(f"{active} === document.body"):
            break
        stops.append(page.evaluate(f"{active}.id || {active}.name || {active}.closest('[id]')?.id"))
        script = f"""(() => {{ const e = {active}.matches('.chip input') ? {active}.nextSibling : {active};
            return getComputedStyle(e).outlineStyle + getComputedStyle(e).outlineWidth; }})()"""
        assert page.evaluate(script) == "solid2px", stops[-1]
    one_each = ["theme", "tab-heads", "layer", "head", "all", "none", "targets", "sources", "show-numbers"]
    assert [stop for stop in stops if stop in one_each] == one_each  # in this order, each once
    page.focus("#tab-heads")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    settled(page)
    assert page.is_visible("#steps")


def test_tokens_are_walked_and_pinned_by_keyboard(opened):
    page = opened()
    page.focus("#tab-heads")
    while page.evaluate("!document.activeElement.closest('#targets')"):
        page.keyboard.press("Tab")
    for key in ("ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    near(means(page), WEIGHTS[0, :, 2].mean(0))  # focus acts as hovering does
    page.keyboard.press("ArrowRight")
    near(means(page), WEIGHTS[0, :, :, 2].mean(0))
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    settled(page)
    assert token(page, "sources", 5).get_attribute("aria-pressed") == "true"
    assert page.inner_text("#status").startswith("\u2068mat\u2069 is attended to most by")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.closest('#targets') !== null")


def test_parts_have_roles_and_names(opened):
    page = opened()
    assert page.get_by_role("tab", name="Lines").get_attribute("aria-selected") == "true"
    assert page.get_by_role("tabpanel", name="Lines").is_visible()
    assert page.get_by_role("radio", name="layer 2").count() == 1
    assert page.get_by_role("checkbox", name="head 4").is_checked()
    assert page.get_by_role("group", name="Target tokens").get_by_role("button", name="垫子").count() == 1
    assert page.get_by_role("table", name="All targets on average").get_by_role("rowheader").count() == 6
    assert page.get_by_role("status").get_attribute("aria-live") == "polite"
    page.click("#tab-steps")
    settled(page)
    assert page.get_by_role("slider", name="Step").get_attribute("aria-valuetext") == "1 / 5: 猫"
    page.click("#tab-grid")
    settled(page)
    assert page.get_by_role("grid").get_by_role("button", name="layer 3, head 4").count() == 1


def test_hostile_tokens_and_titles_are_text(opened):
    shown = attention_explorer(attention(2, 2, 11, 11), HOSTILE, title=HOSTILE[1])
    page = opened(shown)
    for i in range(len(HOSTILE)):
        token(page, "targets", i).click()
        settled(page)
        assert page.inner_text("#of")
    for view in ("steps", "grid", "heads"):
        page.click(f"#tab-{view}")
        settled(page)
    seen = page.locator("#targets button").all_text_contents()
    assert seen[:4] == [text.replace(" ", "␣") for text in HOSTILE[:4]]
    assert seen[5:10] == ["]]>&lt;b&gt;‹U+2028›␀", "‹RLO›gnp.exe", "‹U+D800›", "</iframe></div>", "∅"]
    assert page.inner_text("h1") == HOSTILE[1] == page.title()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, svg, b, iframe").count() == 0


def test_hostile_tokens_do_not_leave_their_frame(browser_page, tmp_path):
    shown = attention_explorer(attention(2, 2, 11, 11), HOSTILE, title=HOSTILE[4])
    (frame,) = hosted(browser_page, shown._repr_html_(), tmp_path)
    assert browser_page.evaluate("window.hacked") is None and frame.evaluate("window.hacked") is None
    assert frame.locator("#targets button").nth(1).text_content() == HOSTILE[1]
    assert browser_page.locator("img, svg, b").count() == 0


def test_explorers_on_one_page_leave_each_other_alone(browser_page, tmp_path):
    shown = attention_explorer(WEIGHTS, SOURCES, TARGETS, title="same")
    other = attention_explorer(WEIGHTS[:1], SOURCES, TARGETS, title="other", view="grid")
    host = "<style>button, table, #title { color: red !important; display: none }</style>"
    body = f"<h1 id=title>host</h1>{shown._repr_html_()}{shown._repr_html_()}{other._repr_html_()}"
    one, two, three = hosted(browser_page, body, tmp_path, host)
    token(one, "targets", 1).click()
    one.locator("#layers .chip").nth(2).click()
    two.locator("#theme").click()
    near(means(one), WEIGHTS[2, :, 1].mean(0))
    near(means(two), WEIGHTS[0].mean((0, 1)))
    assert three.is_visible("#grid") and three.inner_text("h1") == "other"
    grounds = [frame.evaluate("getComputedStyle(document.body).backgroundColor") for frame in (one, two)]
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 28)"]
    for frame in (one, two, three):  # each is as high as what it holds, and no table stands before it
        assert frame.evaluate("document.documentElement.scrollHeight <= innerHeight")
        assert frame.evaluate("frameElement.previousElementSibling.style.display") == "none"
    one.click("#show-numbers")
    settled(one)
    settled(one)
    assert one.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_an_exported_notebook_holds_them(browser_page, tmp_path):
    exporters = pytest.importorskip("nbconvert.exporters")
    shown = attention_explorer(WEIGHTS, SOURCES, TARGETS, title="译")
    outputs = [nbformat.v4.new_output("display_data", {"text/html": shown._repr_html_()}) for _ in range(2)]
    cells = [nbformat.v4.new_code_cell("shown", outputs=[output]) for output in outputs]
    # what nbconvert itself would load, for formulas and widgets, is of no use to ours
    exporter = exporters.HTMLExporter(mathjax_url="", require_js_url="")
    text, _ = exporter.from_notebook_node(nbformat.v4.new_notebook(cells=cells))
    path = tmp_path / "notebook.html"
    path.write_text(text, encoding="utf-8")
    browser_page.goto(path.as_uri())
    one, two = frames(browser_page)
    token(one, "targets", 3).click()
    near(means(one), WEIGHTS[0, :, 3].mean(0))
    near(means(two), WEIGHTS[0].mean((0, 1)))
    assert one.inner_text("h1") == "译"
    assert one.evaluate("document.documentElement.scrollHeight <= innerHeight")


CHAPTERS = Path(__file__).resolve().parents[1] / "chapters"
SHOWN_IN = ("03_2_translation", "03_3_strengths_and_limits", "04_2_derivation")
SHOWN_IN += ("05_3_libraries", "08_1_bert_gpt_t5")


@pytest.mark.parametrize("name", SHOWN_IN)
def test_an_exported_chapter_shows_its_explorer(browser_page, tmp_path, name):
    exporters = pytest.importorskip("nbconvert.exporters")
    exporter = exporters.HTMLExporter(mathjax_url="", require_js_url="")
    text, _ = exporter.from_filename(CHAPTERS / f"{name}.ipynb")
    (tmp_path / "chapter.html").write_text(text, encoding="utf-8")
    browser_page.goto((tmp_path / "chapter.html").as_uri())
    (frame,) = frames(browser_page)
    for view in ("steps", "grid", "heads"):
        frame.click(f"#tab-{view}")
        settled(frame)
        assert frame.is_visible(f"#{view}")
    token(frame, "targets", 1).click()
    settled(frame)
    assert "attends most to" in frame.inner_text("#status")


def test_a_dark_notebook_makes_it_dark(browser_page, tmp_path):
    shown = attention_explorer(WEIGHTS, SOURCES, TARGETS)
    host = f"<div>{shown._repr_html_()}</div><script>0</script>"
    for attribute in ('data-jp-theme-light="false"', 'class="vscode-dark"'):
        path = tmp_path / "dark.html"
        path.write_text(f"<!doctype html><meta charset=utf-8><body {attribute}>{host}", encoding="utf-8")
        browser_page.goto(path.as_uri())
        (frame,) = frames(browser_page)
        assert frame.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"


def test_a_host_with_strict_rules_shows_it(browser_page, tmp_path):
    shown = attention_explorer(WEIGHTS, SOURCES, TARGETS)
    rules = f'<meta http-equiv="Content-Security-Policy" content="{STRICT}">'
    (frame,) = hosted(browser_page, shown._repr_html_(), tmp_path, rules)
    token(frame, "targets", 1).click()
    near(means(frame), WEIGHTS[0, :, 1].mean(0))


def test_its_own_rules_forbid_the_network(browser_page, opened):
    page = opened()
    assert page.evaluate("fetch('https://example.org').then(() => 'sent', () => 'refused')") == "refused"
    assert any("Content Security Policy" in problem for problem in browser_page.problems)
    assert not any(problem.startswith("request") for problem in browser_page.problems)
    browser_page.problems.clear()


def test_a_sandbox_without_the_host_shows_it(browser_page, tmp_path):
    page = attention_explorer(WEIGHTS, SOURCES, TARGETS).html.replace("&", "&amp;").replace('"', "&quot;")
    (frame,) = hosted(browser_page, f'<iframe sandbox="allow-scripts" srcdoc="{page}"></iframe>', tmp_path)
    near(means(frame), WEIGHTS[0].mean((0, 1)))


def test_without_scripts_a_table_is_shown(chromium, tmp_path):
    shown = attention_explorer(WEIGHTS, SOURCES, TARGETS)
    shown.save(tmp_path / "attention.html")
    host = tmp_path / "host.html"
    host.write_text(f"<!doctype html><meta charset=utf-8>{shown._repr_html_()}", encoding="utf-8")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    for path in (tmp_path / "attention.html", host):
        page.goto(path.as_uri())
        table = page.locator("table").first
        assert (
            table.is_visible()
            and "垫子" in table.inner_text()
            and "mean over layers (3)" in table.inner_text()
        )
        assert page.frames[-1].locator("main").count() == 1
        assert page.frames[-1].locator("main:visible").count() == 0
    context.close()
