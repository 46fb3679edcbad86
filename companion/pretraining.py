"""Training a language model: its loss over a large vocabulary, a trainer, learning rates that warm up."""

import math

import keras
from keras import ops

from companion.base import check_at_least, computes_in_float16
from companion.embedding import TokenPositionEmbedding


def chunked_cross_entropy(hidden, table, labels, weights=None, bias=None, chunk_size: int = 256):
    """The mean of -log softmax(hidden · table + bias)[label], without all the logits at once.

    The logits of one chunk of rows are alive at a time, and its part of the gradient is computed while they
    are: memory for (chunk_size, V) numbers instead of (N, V), twice, and less time for want of fewer passes
    over them.

    Args:
        hidden: (N, M) float, what enters the output layer; its dtype is that of the products.
        table: (V, M) float, a row for each token.
        labels: (N,) int from 0 to V - 1.
        weights: (N,) float, how much each row counts; None: all alike.
        bias: (V,) float, or None.
        chunk_size: Most rows of a chunk, >= 1.
    Returns:
        Scalar float32, differentiable by hidden, table and bias; 0 if all weights are 0.
    Raises:
        ValueError: chunk_size below 1.
    Source: closed form of the gradient, softmax minus one-hot; computed on the way forward as in Wijmans et
    al. 2024, section 4, and Hsu et al. 2024, section 3.2. Differs: chunks of rows only, in plain Keras.
    """
    check_at_least(1, chunk_size=chunk_size)
    labels = ops.cast(labels, "int32")
    weights = ops.ones(ops.shape(labels)) if weights is None else ops.cast(weights, "float32")

    @ops.custom_gradient
    def weighted_sum(*arrays):
        total, gradients = _forward_and_gradients(
            *arrays, labels=labels, weights=weights, chunk_size=chunk_size
        )

        def backward(*upstreams, upstream=None):
            upstream = upstreams[0] if upstream is None else upstream  # PyTorch's comes by name
            # in float16 the upstream alone may overflow, and infinity times 0 is NaN
            return tuple(ops.cast(upstream * ops.cast(x, "float32"), x.dtype) for x in gradients)

        return total, backward

    arrays = (hidden, table) if bias is None else (hidden, table, bias)
    return ops.divide_no_nan(weighted_sum(*map(ops.convert_to_tensor, arrays)), ops.sum(weights))


def _forward_and_gradients(hidden, table, *bias, labels, weights, chunk_size):
    """Chunk after chunk; a loop that runs, not one that is unrolled, keeps no two of them alive."""
    length = ops.shape(hidden)[0]
    count = -(-length // chunk_size)
    size = -(-length // count)  # so that chunks are alike, and rows of weight 0 fill less than one of each
    missing = count * size - length
    hidden = ops.concatenate([hidden, ops.zeros((missing, hidden.shape[1]), hidden.dtype)])
    labels = ops.concatenate([labels, ops.zeros((missing,), "int32")])
    weights = ops.concatenate([weights, ops.zeros((missing,))])
    compute_table = ops.cast(table, hidden.dtype)

    def step(number, total, by_hidden, *sums):
        start = number * size
        chunk = ops.slice(hidden, (start, 0), (size, hidden.shape[1]))
        numbers = [ops.slice(x, (start,), (size,))[:, None] for x in (labels, weights)]
        part, by_chunk, *terms = _chunk(chunk, compute_table, *numbers, *bias)
        by_hidden = ops.slice_update(by_hidden, (start, 0), by_chunk)
        sums = [x + ops.cast(term, x.dtype) for x, term in zip(sums, terms, strict=True)]
        return number + 1, total + part, by_hidden, *sums

    zeros = [ops.zeros(ops.shape(x), x.dtype) for x in (hidden, table, *bias)]
    state = ops.convert_to_tensor(0), ops.zeros(()), *zeros
    _, total, by_hidden, *sums = ops.while_loop(lambda number, *_: number < count, step, state)
    return total, (by_hidden[:length], *sums)


def _chunk(hidden, table, labels, weights, *bias):
    """(C, M), (V, M), (C, 1), (C, 1), (V,) to the weighted sum, its gradients by hidden, table and bias."""
    logits = ops.cast(ops.matmul(hidden, ops.transpose(table)), "float32")
    for one in bias:
        logits = logits + ops.cast(one, "float32")
    shares = ops.softmax(logits)  # its largest, 1 / sum of exp(logits - largest), never underflows
    log_sum = ops.max(logits, axis=-1, keepdims=True) - ops.log(ops.max(shares, axis=-1, keepdims=True))
    at_label = ops.take_along_axis(logits, labels, axis=-1)
    total = ops.sum(weights * (log_sum - at_label))
    # minus one-hot; weighing the short side of each product spares a pass over the long one
    rows = ops.stack([ops.arange(ops.shape(labels)[0]), labels[:, 0]], axis=1)
    shares = ops.scatter_update(shares, rows, ops.exp(at_label - log_sum)[:, 0] - 1)
    shares, weights = ops.cast(shares, hidden.dtype), ops.cast(weights, hidden.dtype)
    transposed = ops.transpose(shares)
    by_bias = [ops.matmul(transposed, weights)[:, 0] for _ in bias]
    return total, weights * ops.matmul(shares, table), ops.matmul(transposed, weights * hidden), *by_bias


class Pretrainer(keras.Model):
    """Trains a language model by `chunked_cross_entropy`: compile without a loss, then fit and evaluate.

    The loss of a model that computes in float16 is scaled, and losses of its layers (regularizers) are added.
    It has no weights of its own: train it, and save the model. Keras's own options do the rest:

        trainer = Pretrainer(model)
        trainer.compile(
            keras.optimizers.AdamW(
                WarmupCosine(3e-4, 100, 1000),
                weight_decay=0.1,
                global_clipnorm=1.0,  # gradients longer than this are shortened
                gradient_accumulation_steps=4,  # an update for every 4 batches
            )
        )
        trainer.fit(batches, shuffle=False)

    Args:
        model: A functional model whose last output is the logits (B, T, V), made by a
            `TokenPositionEmbedding` with reverse=True, or by a Dense without activation; all from
            `companion.models` do.
        labels_per_row: Most labels of a row with a weight above 0, if they are few (masked tokens): then only
            those places reach the output layer. A row with more makes the loss NaN.
        chunk_size: See `chunked_cross_entropy`.
    Call arguments:
        inputs: What the model takes.
    Returns:
        (B, T, M) float, what enters the output layer.
        In fit and evaluate, from labels (B, T) int and sample weights (B, T) float, the loss: the mean over
        all weights of the epoch, so that exp(loss) is the perplexity.
    Raises:
        ValueError: the model ends in something else, a size is below 1, or compile was given a loss or
            metrics: the logits that these would read are never whole.
    """

    def __init__(self, model, labels_per_row=None, chunk_size=256, **kwargs):
        # by its policy Keras decides whether the loss is scaled
        super().__init__(**({"dtype": "mixed_float16"} if computes_in_float16(model) else {}) | kwargs)
        check_at_least(1, chunk_size=chunk_size)
        check_at_least(1, labels_per_row=1 if labels_per_row is None else labels_per_row)
        head = vocabulary_head(model)
        if head is None:
            raise ValueError(
                "model must end in a TokenPositionEmbedding with reverse=True or a Dense without activation; "
                f"received {model.name!r}, whose last output is {model.outputs[-1].name!r}."
            )
        self.head, hidden = head
        self.body = keras.Model(model.input, hidden, name="body")
        self.labels_per_row, self.chunk_size = labels_per_row, chunk_size
        # in place of Keras's own, which counts a batch of few tokens like one of many
        self.mean_loss = keras.metrics.Mean("loss")

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        for name, given in {"loss": loss, **kwargs}.items():
            if given is not None and name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
                raise ValueError(f"{name} must be left out, the loss is cross-entropy; received {given!r}.")
        super().compile(optimizer, **kwargs)

    @property
    def metrics(self):
        return [metric for metric in super().metrics if metric.name != "loss" or metric is self.mean_loss]

    def call(self, inputs, training=None):
        return self.body(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        weights = ops.ones(ops.shape(y)) if sample_weight is None else ops.cast(sample_weight, "float32")
        weight, hidden, labels = ops.sum(weights), y_pred, y
        too_many = False
        if self.labels_per_row is not None:
            count = ops.sum(ops.cast(weights > 0, "int32"), axis=-1)
            too_many = ops.any(count > self.labels_per_row)
            weights, places = ops.top_k(weights, self.labels_per_row)
            hidden = ops.take_along_axis(hidden, places[:, :, None], axis=1)
            labels = ops.take_along_axis(labels, places, axis=1)
        table, bias = self._output_weights()
        hidden = ops.cast(ops.reshape(hidden, (-1, hidden.shape[-1])), self.head.compute_dtype)
        labels, weights = ops.reshape(labels, (-1,)), ops.reshape(weights, (-1,))
        loss = chunked_cross_entropy(hidden, table, labels, weights, bias, self.chunk_size)
        loss = ops.where(too_many, float("nan"), loss)
        self.mean_loss.update_state(ops.stop_gradient(loss), weight)
        return loss + sum(ops.sum(ops.cast(penalty, "float32")) for penalty in self.losses)

    def _output_weights(self):
        if isinstance(self.head, TokenPositionEmbedding):
            return self.head.token_table, self.head.output_bias if self.head.has_output_bias else None
        return ops.transpose(self.head.kernel), self.head.bias


def vocabulary_head(model: keras.Model, output: int = -1):
    """The layer that makes a model's logits, and what it makes them of.

    Args:
        model: A functional model.
        output: Which of its outputs the logits are.
    Returns:
        layer: A `TokenPositionEmbedding` read backwards, or a Dense without activation.
        hidden: (B, T, M) symbolic tensor, what enters it.
        None in place of both if the output is made by something else.
    """
    layer, node, _ = model.outputs[output]._keras_history
    arguments = layer._inbound_nodes[node].arguments
    backwards = isinstance(layer, TokenPositionEmbedding) and arguments.kwargs.get("reverse")
    linear = isinstance(layer, keras.layers.Dense) and layer.activation is keras.activations.linear
    return (layer, arguments.args[0]) if backwards or linear else None


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """From 0 to peak in a straight line; step 0 is the first step on it."""

    def __init__(self, peak, warmup_steps):
        check_at_least(1, warmup_steps=warmup_steps)
        if not peak > 0:
            raise ValueError(f"peak must be above 0; received peak={peak}.")
        self.peak, self.warmup_steps = peak, warmup_steps

    def __call__(self, step):
        step = ops.cast(step, "float32") + 1
        return self.peak * ops.where(step < self.warmup_steps, step / self.warmup_steps, self._after(step))


@keras.saving.register_keras_serializable("companion")
class WarmupInverseSqrt(_Warmup):
    """A learning rate that rises to its peak, then falls with the square root of the step.

    Args:
        peak: The largest learning rate, > 0.
        warmup_steps: Batches until then, >= 1. With gradient accumulation too, batches are counted, not
            updates.
    Raises:
        ValueError: warmup_steps below 1, or peak not above 0.
    Source: Vaswani et al. 2017, section 5.3, where peak is (model_dim * warmup_steps)^-0.5.
    """

    def _after(self, step):
        return ops.sqrt(self.warmup_steps / step)

    def get_config(self):
        return {"peak": self.peak, "warmup_steps": self.warmup_steps}


@keras.saving.register_keras_serializable("companion")
class WarmupCosine(_Warmup):
    """A learning rate that rises to its peak, then falls along half a cosine.

    Args:
        peak: The largest learning rate, > 0.
        warmup_steps: Batches until then, >= 1. With gradient accumulation too, batches are counted, not
            updates.
        total_steps: Batches until the floor is reached, where it stays; above warmup_steps.
        floor: The last learning rate, 0 <= floor <= peak.
    Raises:
        ValueError: a number out of its range.
    Source: Loshchilov and Hutter 2017, section 3, equation 5. Differs: warms up once, never restarts.
    """

    def __init__(self, peak, warmup_steps, total_steps, floor=0.0):
        super().__init__(peak, warmup_steps)
        if total_steps <= warmup_steps:
            raise ValueError(
                f"total_steps must be above warmup_steps={warmup_steps}; received total_steps={total_steps}."
            )
        if not 0 <= floor <= peak:
            raise ValueError(f"floor must be from 0 to peak={peak}; received floor={floor}.")
        self.total_steps, self.floor = total_steps, floor

    def _after(self, step):
        done = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        least = self.floor / self.peak
        return least + (1 - least) * 0.5 * (1 + ops.cos(math.pi * ops.clip(done, 0.0, 1.0)))

    def get_config(self):
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "floor": self.floor,
        }
