"""What the tests share: seeds, a second implementation of the blocks in NumPy, training, a fresh Python."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import importlib.util
import math
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import keras
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Shapes are drawn alike in every run. A first call compiles, so no example has a deadline; JAX compiles every
# operation again for every new shape, so it gets fewer of them.
hypothesis.settings.register_profile(
    "companion",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=20 if keras.backend.backend() == "jax" else 100,
)
hypothesis.settings.load_profile("companion")


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def under_policy():
    """`with under_policy("mixed_float16"):` what is made has this dtype policy."""

    @contextmanager
    def under(policy):
        keras.config.set_dtype_policy(policy)
        try:
            yield
        finally:
            keras.config.set_dtype_policy("float32")

    return under


@pytest.fixture
def fresh_python(tmp_path):
    """Run lines of Python in a process of its own, with the backend of this one; returns what it printed."""

    def run(code, **environment):
        environment = {"KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": str(ROOT), **environment}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def randomized():
    """Give every weight of a built layer or model a random value: initial biases of 0 hide mistakes."""

    def randomize(layer, seed=0):
        generator = np.random.default_rng(seed)
        for weight in layer.weights:
            if keras.backend.is_float_dtype(weight.dtype):
                weight.assign(
                    weight.numpy() + 0.3 * generator.standard_normal(weight.shape).astype("float32")
                )
        return layer

    return randomize


@pytest.fixture(scope="session")
def step_changes():
    """Train a model for one step; returns {path of a trainable weight: largest change}."""

    def changes(model, inputs, labels, loss="mse"):
        before = {weight.path: weight.numpy().copy() for weight in model.trainable_weights}
        model.compile(keras.optimizers.SGD(1.0), loss, run_eagerly=keras.backend.backend() != "jax")
        model.train_on_batch(inputs, labels)
        return {
            weight.path: np.abs(weight.numpy() - before[weight.path]).max()
            for weight in model.trainable_weights
        }

    return changes


@pytest.fixture(scope="session")
def oracle():
    """The layers written a second time: NumPy, float64, one sequence and one head at a time."""
    return SimpleNamespace(
        attention=_attention,
        multi_head=_multi_head,
        feed_forward=_feed_forward,
        encoder_block=_encoder_block,
        decoder_block=_decoder_block,
    )


def _attention(query, key, value, mask=None, bias=None, scaled=True):
    """(T, D), (S, D), (S, E), (T, S), (T, S): one sequence, one head, one query after another."""
    weights = np.full((len(query), len(key)), 1 / len(key))
    for t, row in enumerate(np.asarray(query, "float64")):
        allowed = np.ones(len(key), bool) if mask is None else mask[t]
        if allowed.any():  # or else the row stays uniform
            scores = np.array([row @ other for other in key]) / (np.sqrt(len(row)) if scaled else 1)
            scores = scores if bias is None else scores + bias[t]
            powers = np.where(allowed, np.exp(scores - scores[allowed].max()), 0.0)
            weights[t] = powers / powers.sum()
    return weights @ value, weights


def _dense(layer, x):
    product = x @ layer.kernel.numpy().astype("float64")
    return product if layer.bias is None else product + layer.bias.numpy()


def _norm(layer, x):
    if isinstance(layer, keras.layers.RMSNormalization):
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + layer.epsilon) * layer.scale.numpy()
    centered = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + layer.epsilon)
    return centered / spread * layer.gamma.numpy() + layer.beta.numpy()


def _multi_head(layer, query, key=None, value=None, mask=None, bias=None):
    key = query if key is None else key
    value = key if value is None else value
    width = layer.query_projection.units // layer.num_heads
    masks = np.broadcast_to(True if mask is None else mask, (len(query), query.shape[1], key.shape[1]))
    biases = np.zeros((1, layer.num_heads, 1, 1)) if bias is None else bias
    biases = np.broadcast_to(biases, (len(query), layer.num_heads, query.shape[1], key.shape[1]))
    outputs, weights = [], []
    for one_query, one_key, one_value, *limits in zip(query, key, value, masks, biases, strict=True):
        queries, keys = _dense(layer.query_projection, one_query), _dense(layer.key_projection, one_key)
        values = _dense(layer.value_projection, one_value)
        columns = [slice(h * width, (h + 1) * width) for h in range(layer.num_heads)]
        heads = [
            _attention(queries[:, c], keys[:, c], values[:, c], limits[0], limits[1][h], layer.scaled)
            for h, c in enumerate(columns)
        ]
        outputs.append(_dense(layer.output_projection, np.concatenate([head for head, _ in heads], axis=-1)))
        weights.append([weight for _, weight in heads])
    return np.array(outputs), np.array(weights)


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}


def _feed_forward(layer, x):
    hidden = ACTIVATIONS[layer.hidden.activation.__name__](_dense(layer.hidden, x))
    return _dense(layer.output_projection, hidden * _dense(layer.gate, x) if layer.gate else hidden)


def _residual(block, norm, x, sublayer):
    return x + sublayer(_norm(norm, x)) if block.norm_first else _norm(norm, x + sublayer(x))


def _encoder_block(block, source, mask=None, bias=None):
    def attend(x):
        return _multi_head(block.attention, x, mask=mask, bias=bias)[0]

    source = _residual(block, block.attention_norm, source, attend)
    return _residual(block, block.feed_forward_norm, source, lambda x: _feed_forward(block.feed_forward, x))


def _decoder_block(block, target, source=None, mask=True, source_mask=None, bias=None):
    length = target.shape[1]
    causal = np.tri(length, dtype=bool) & (mask | np.eye(length, dtype=bool))

    def attend(x):
        return _multi_head(block.self_attention, x, mask=causal, bias=bias)[0]

    def attend_to_source(x):
        return _multi_head(block.source_attention, x, source, mask=source_mask)[0]

    target = _residual(block, block.self_attention_norm, target, attend)
    if block.cross_attention:
        target = _residual(block, block.source_attention_norm, target, attend_to_source)
    return _residual(block, block.feed_forward_norm, target, lambda x: _feed_forward(block.feed_forward, x))


@pytest.fixture(scope="session")
def chromium():
    """The Chromium of the system. Without one the test is skipped, unless COMPANION_BROWSER=required."""
    required = os.environ.get("COMPANION_BROWSER") == "required"
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not required and (path is None or importlib.util.find_spec("playwright") is None):
        pytest.skip("no Chromium or no Playwright: apt install chromium, pip install playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browser_page(chromium):
    """A fresh page. A request to another machine, or an error in the page, fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.problems = []
    local = re.compile(r"(file|data|blob|about):|(https?|wss?)://127\.0\.0\.1[:/]")

    def only_local(route):
        if local.match(route.request.url):
            return route.continue_()
        page.problems.append(f"request to {route.request.url}")
        return route.abort()

    context.route("**/*", only_local)
    page.on("pageerror", lambda error: page.problems.append(f"error in the page: {error}"))
    page.on("console", lambda line: line.type == "error" and page.problems.append(f"console: {line.text}"))
    yield page
    problems = list(page.problems)
    context.close()
    assert not problems, "\n".join(problems)
