"""A contestant of benchmarks/generation.py: `python decode.py NAME BATCH TURNS` waits for turns, see race.py.

Each continues BATCH prompts of PROMPT tokens by TOKENS more, greedily, with a GPT-2 of the same sizes and
random weights that nothing ends early. NAME is one of CONTESTANTS.
"""

import json
import os
import resource
import sys
import time

import numpy as np

VOCABULARY, WIDTH, HEADS, HIDDEN, LAYERS = 8000, 256, 8, 1024, 6
PROMPT, TOKENS = 32, 128
LENGTH = PROMPT + TOKENS


def companion_generate(prompts, streaming=False):
    """Number of parameters, and a function that writes: (B, P) int32 to (B, TOKENS) int."""
    import keras

    import companion
    from companion.generation import stream

    keras.utils.set_random_seed(0)
    model = companion.gpt(VOCABULARY, LENGTH, WIDTH, HEADS, HIDDEN, LAYERS)
    settings = {"max_length": TOKENS, "end_id": (), "suppress_ids": ()}
    if streaming:
        return model.count_params(), lambda: np.stack([*stream(model, prompts, **settings)], axis=1)
    return model.count_params(), lambda: companion.generate(model, prompts, **settings)


def kerashub_generate(prompts, backend, fused=None):
    """The same by KerasHub."""
    os.environ["KERAS_BACKEND"] = backend
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(VOCABULARY, LAYERS, HEADS, WIDTH, HIDDEN, 0.1, LENGTH)
    model = keras_hub.models.GPT2CausalLM(backbone)
    model.compile(sampler="greedy", **({} if fused is None else {"jit_compile": fused}))
    rest = ((0, 0), (0, TOKENS))
    inputs = {"token_ids": np.pad(prompts, rest), "padding_mask": np.pad(np.ones_like(prompts), rest)}
    written = lambda: model.generate(inputs, stop_token_ids=None)["token_ids"]  # noqa: E731
    return model.count_params(), lambda: np.asarray(written())[:, PROMPT:]


def transformers_model():
    """GPT-2 of the library transformers."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_inner": HIDDEN}
    sizes |= {"vocab_size": VOCABULARY, "n_positions": LENGTH}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)).eval()


def transformers_generate(prompts):
    """The same by the library transformers."""
    import torch

    model = transformers_model()
    prompts = torch.from_numpy(prompts).long()
    settings = {"max_new_tokens": TOKENS, "do_sample": False, "attention_mask": torch.ones_like(prompts)}

    def write():
        with torch.inference_mode():
            return model.generate(prompts, **settings)[:, PROMPT:].numpy()

    return sum(x.numel() for x in model.parameters()), write


def torch_generate(prompts):
    """The same by hand: the weights of transformers, a cache as long as it will be."""
    import torch
    from torch.nn import functional

    model = transformers_model()
    body, prompts = model.transformer, torch.from_numpy(prompts).long()
    rows, size = len(prompts), WIDTH // HEADS
    caches = torch.zeros(LAYERS, 2, rows, HEADS, LENGTH, size)

    def step(tokens, start):
        end = start + tokens.shape[1]
        x = body.wte(tokens) + body.wpe.weight[start:end]
        for block, cache in zip(body.h, caches, strict=True):
            attention, network = block.attn, block.mlp
            wide = torch.addmm(attention.c_attn.bias, block.ln_1(x).view(-1, WIDTH), attention.c_attn.weight)
            query, *new = wide.view(rows, -1, 3, HEADS, size).permute(2, 0, 3, 1, 4)
            for kept, part in zip(cache, new, strict=True):
                kept[:, :, start:end] = part
            keys, values = cache[:, :, :, :end]
            attended = functional.scaled_dot_product_attention(query, keys, values, is_causal=start == 0)
            attended = attended.transpose(1, 2).reshape(-1, WIDTH)
            x = x + torch.addmm(attention.c_proj.bias, attended, attention.c_proj.weight).view_as(x)
            hidden = torch.addmm(network.c_fc.bias, block.ln_2(x).view(-1, WIDTH), network.c_fc.weight)
            hidden = functional.gelu(hidden, approximate="tanh")
            x = x + torch.addmm(network.c_proj.bias, hidden, network.c_proj.weight).view_as(x)
        return (body.ln_f(x[:, -1]) @ body.wte.weight.T).argmax(-1, keepdim=True)

    @torch.inference_mode()
    def write():
        written = [step(prompts, 0)]
        while len(written) < TOKENS:
            written.append(step(written[-1], PROMPT + len(written) - 1))
        return torch.cat(written, dim=1).numpy()

    return sum(x.numel() for x in model.parameters()), write


CONTESTANTS = {
    "companion": (companion_generate, {}),
    "companion, streaming": (companion_generate, {"streaming": True}),
    "KerasHub, TensorFlow": (kerashub_generate, {"backend": "tensorflow"}),
    "KerasHub, TensorFlow, XLA": (kerashub_generate, {"backend": "tensorflow", "fused": True}),
    "KerasHub, JAX": (kerashub_generate, {"backend": "jax"}),
    "transformers": (transformers_generate, {}),
    "PyTorch by hand": (torch_generate, {}),
}


def main():
    name, rows, turns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    prompts = np.random.default_rng(0).integers(1, VOCABULARY, (rows, PROMPT), dtype="int32")
    make, options = CONTESTANTS[name]
    parameters, write = make(prompts, **options)

    written = []

    def seconds():
        started = time.perf_counter()
        written[:] = write().tolist()
        passed = time.perf_counter() - started
        assert [*map(len, written)] == [TOKENS] * rows, "stopped early"
        return passed

    ready = {"parameters": parameters, "first": seconds(), "written": written}
    print(json.dumps(ready), file=channel)
    for _ in sys.stdin:
        fastest = min(seconds() for _ in range(turns))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": fastest, "memory": memory}), file=channel)


if __name__ == "__main__":
    main()
