"""Size and speed of `companion.attention_explorer` in Chromium, and the picture of it in the README.

    python benchmarks/explorer.py [--rounds 7] [--picture PATH [--model FOLDER]]

Measured are a sentence of 12 tokens (4 layers of 8 heads) and the largest size it is made for, 128 tokens (12
layers of 12 heads, 2.4 million weights): the size of the file and of what a notebook stores; the time from
opening the file until the browser has painted the whole explorer; the time from an event until the frame that
answers it is painted and the next has begun, so up to a frame (17 ms) too long. Of the grid that frame shows
the first maps; the others follow. Attention is random: "sharp" (a few sources each, causal), as in trained
models, and "diffuse", which packs and draws worst. Each round is a fresh page; medians, and in brackets the
worst.

There is no peer in the table: bertviz, whose views these are, loads its scripts from the network, and without
one shows nothing.

The picture shows the translator that chapter 03_2 leaves, at a test sentence. Needs Chromium and Playwright.
About a minute on two cores, which should have nothing else to do.
"""

import argparse
import contextlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from companion.explorer import attention_explorer

SIZES = {"12 tokens × 4 × 8": (4, 8, 12), "128 tokens × 12 × 12": (12, 12, 128)}
SENTENCE = "Monday, July 13, 1970, 7:39 PM"  # the example of chapter 03_2
# Frames are counted from the first in which the explorer is visible: the next begins after it was painted.
PAINTED = """window.painted = new Promise(done => requestAnimationFrame(function look() {
    const main = document.querySelector("main");
    if (!main || main.hidden) return requestAnimationFrame(look);
    requestAnimationFrame(() => done(performance.now()));
}));"""
AFTER = """([selector, event]) => new Promise(done => {
    const element = document.querySelector(selector);
    const start = performance.now();
    if (event === "click") element.click();
    else element.dispatchEvent(new PointerEvent(event, { bubbles: true }));
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})"""
EVENTS = {
    "hover": [(f"#targets button:nth-child({i})", "pointerover") for i in (2, 9, 5, 12)],
    "leave": [("#targets", "pointerleave")],
    "layer, no token": [(f"#layers .chip:nth-of-type({i}) input", "click") for i in (3, 1)],
    "pin": [(f"#sources button:nth-child({i})", "click") for i in (3, 11)],
    "layer": [(f"#layers .chip:nth-of-type({i}) input", "click") for i in (2, 4, 1)],
    "no and all heads": [("#none", "click"), ("#all", "click")],
    "every number": [("#show-numbers", "click")],
    "grid": [("#tab-grid", "click")],
    "open a map": [("#maps tr:nth-child(3) button", "click")],
    "steps": [("#tab-steps", "click")],
    "step": [("#after", "click")] * 4,
}


def attention(layers, heads, tokens, kind):
    """(layers, heads, tokens, tokens) random weights."""
    rng = np.random.default_rng(0)
    if kind == "diffuse":
        return rng.dirichlet(np.ones(tokens), size=(layers, heads, tokens))
    scores = np.where(
        np.tri(tokens, dtype=bool), 3 * rng.normal(size=(layers, heads, tokens, tokens)), -np.inf
    )
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@contextlib.contextmanager
def chromium():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def measured(browser, path):
    """Opens the file once: {what: [milliseconds]}."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.add_init_script(PAINTED)
    page.goto(path.as_uri())
    times = {"first paint": [page.evaluate("window.painted")]}
    for name, events in EVENTS.items():
        times[name] = [page.evaluate(AFTER, list(event)) for event in events]
    context.close()
    return times


def table(browser, folder, rounds):
    for size, (layers, heads, tokens) in SIZES.items():
        for kind in ("sharp", "diffuse"):
            weights = attention(layers, heads, tokens, kind)
            shown = attention_explorer(weights, [f"token{i}" for i in range(tokens)])
            path = folder / "explorer.html"
            shown.save(path)
            runs = [measured(browser, path) for _ in range(rounds)]
            notebook = len(shown._repr_html_().encode())
            print(f"\n{size}, {kind}: file {path.stat().st_size / 1e3:,.0f} kB, ", end="")
            print(f"in a notebook {notebook / 1e3:,.0f} kB; milliseconds:", flush=True)
            for name in runs[0]:
                values = np.concatenate([run[name] for run in runs])
                print(f"  {name:18} {np.median(values):5.0f} ({values.max():.0f})", flush=True)


def picture(browser, folder, model, path):
    """Writes a PNG of 1,200 pixels' width: a translation, the token pinned that tells the day of the week."""
    from companion.applications import Translator

    weights, sources, targets = Translator.load(model).attention(SENTENCE)
    title = f"{SENTENCE} → {''.join(targets[:-1])}"
    shown = attention_explorer(weights, sources, targets, title=title, layer=len(weights) - 1)
    shown.save(folder / "explorer.html")
    page = browser.new_page(viewport={"width": 1200, "height": 400}, color_scheme="light")
    page.goto((folder / "explorer.html").as_uri())
    page.locator("#targets button", has_text="星期").first.click()
    page.mouse.move(0, 0)
    page.screenshot(path=path, full_page=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--picture", type=Path, help="write the picture of the README here, and measure nothing"
    )
    parser.add_argument("--model", type=Path, help="folder of the translator; where chapter 03_2 leaves it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        if arguments.picture is None:
            return table(browser, Path(folder), arguments.rounds)
        from companion.applications import models_folder

        picture(browser, Path(folder), arguments.model or models_folder() / "translation", arguments.picture)


if __name__ == "__main__":
    main()
