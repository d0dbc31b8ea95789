"""Replies of a causal model against transformers' pipeline and a llama.cpp server on the same weights.

python benchmarks/generation.py [--prompts 256] [--tokens 80] [--shots 0 3] [--dtypes float32 bfloat16] [--rounds 1]
       [--batch-tokens 32768] [--model ...]

Greedy, no penalties, until a line break or --tokens. Prompts: the embedded corpus as the generate stage forms them; with
shots all begin with the same exemplars. Peer: pipeline(batch_size=16) over prompts sorted by length, the same end tokens.
llama.cpp: its own server (package xllamacpp, in the environment that `make bench` makes), 8 slots, prompts as token ids, the
same weights in bfloat16 and 8 bits (gguf_files.py; for another model --gguf names such files). Timed without loading. Texts
must be equal in float32; in bfloat16 their share is printed.
"""

import argparse
import importlib.util
import statistics
import tempfile
from pathlib import Path
from typing import Any

import corpus
import gguf_files
import measure

from emplifai.params import EMBEDDED, Generate, Model

SLOTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=80)
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 3])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch-tokens", type=int, default=Generate().batch_tokens, help="generate.batch_tokens of params.yaml")
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--gguf", nargs="*", default=[], help="files of the same weights, for llama.cpp")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = args.gguf
        if importlib.util.find_spec("xllamacpp") and args.model == EMBEDDED and "bfloat16" in args.dtypes:
            files = files or measure.alone(gguf_files.make, EMBEDDED, Path(folder)).value
        for dtype in args.dtypes:
            for shots in args.shots:
                given = (args.model, dtype, args.prompts, args.tokens, shots)
                sides = {"emplifai": (ours, *given, args.batch_tokens), "pipeline(batch_size=16), sorted": (pipeline, *given)}
                if dtype == "bfloat16":
                    sides |= {f"llama.cpp, {Path(file).stem}": (llama, str(file), *given) for file in files}
                show(dtype, shots, args, measure.rounds(args.rounds, sides))


def show(dtype: str, shots: int, args: argparse.Namespace, found: dict) -> None:
    value = {name: sides[-1].value for name, sides in found.items()}
    base = value["emplifai"]["ids"]
    same = {name: sum(a == b for a, b in zip(v["ids"], base, strict=True)) for name, v in value.items()}
    assert dtype != "float32" or min(same.values()) == len(base), same
    tokens = {name: sum(map(len, v["ids"])) for name, v in value.items()}
    measure.table(f"{args.prompts} prompts, {shots} exemplars, up to {args.tokens} tokens, {dtype}", found, tokens)
    print("equal texts:", ", ".join(f"{n} {k} of {len(base)}" for n, k in same.items() if n != "emplifai"))
    measure.floor(value["emplifai"]["operations"], statistics.median(s.counted for s in found["emplifai"]), dtype)


def told(tokenizer: Any, count: int, shots: int) -> list[list[int]]:
    from emplifai import generate, prompt
    from emplifai.params import Data

    talk, rows = prompt.talk_of(Data()), corpus.dialogues(1120)
    chosen = generate.exemplars(rows[count:], shots)
    pieces = [prompt.split_at(prompt.segments(d, talk, tokenizer, shots=chosen), "reply")[0] for d in rows[:count]]
    return [prompt.encode(given, tokenizer)[0] for given in pieces]


def ours(name: str, dtype: str, count: int, longest: int, shots: int, batch_tokens: int) -> measure.Timed:
    import torch

    from emplifai.backends import batches, decoding, weights

    model, tokenizer = weights.load(Model(backend="transformers", model=name, dtype=dtype))
    prompts, stops = told(tokenizer, count, shots), decoding.stop_ids(model, tokenizer)
    how = decoding.Decoding(longest)
    ids: list[list[int]] = [[] for _ in prompts]
    watch = measure.Watch()
    with torch.inference_mode():
        reader = batches.Reader(model)
        reader.share(prompts)
        for batch in decoding.batches(prompts, batch_tokens, how, "cpu" if not _gpu() else "cuda"):
            written = decoding._decode(reader, [prompts[i] for i in batch], [0] * len(batch), how, stops, lambda note: None)
            for i, row in zip(batch, written, strict=True):
                ids[i] = row
    times = watch.read()
    return measure.Timed({"ids": ids, "operations": operations(model, prompts, ids)}, times)


def operations(model: Any, prompts: list[list[int]], ids: list[list[int]]) -> float:
    """Each prompt token through the layers once (a common beginning once for all), each written token through layers and head."""
    from emplifai.backends import batches

    config = model.config.get_text_config()
    body, head = measure.layer_weights(config) * config.num_hidden_layers, config.vocab_size * config.hidden_size
    read = sum(map(len, prompts)) - len(batches.common(prompts)) * (len(prompts) - 1)
    written = sum(map(len, ids))
    return 2 * (body * (read + written) + head * written)


def pipeline(name: str, dtype: str, count: int, longest: int, shots: int) -> measure.Timed:
    """The pipeline tokenizes text itself; the prompts are texts that come to the same ids."""
    import torch
    import transformers

    from emplifai.backends import decoding, weights

    model, tokenizer = weights.load(Model(backend="transformers", model=name, dtype=dtype))
    prompts, stops = told(tokenizer, count, shots), decoding.stop_ids(model, tokenizer)
    tokenizer.padding_side = "left"
    known = {tokenizer.decode(p): p for p in prompts}
    tokenizer.__class__.__call__ = _by_ids(tokenizer.__class__.__call__, known)
    transformers.logging.set_verbosity_error()
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu" if not _gpu() else 0)
    order = sorted(range(count), key=lambda i: -len(prompts[i]))
    texts = [tokenizer.decode(prompts[i]) for i in order]
    options = {"do_sample": False, "max_new_tokens": longest, "return_tensors": True, "eos_token_id": sorted(stops)}
    watch = measure.Watch()
    with torch.inference_mode():
        out = pipe(texts, batch_size=16, pad_token_id=tokenizer.pad_token_id, **options)
    times = watch.read()
    ids: list[list[int]] = [[] for _ in prompts]
    for i, rows in zip(order, out, strict=True):
        ids[i] = _until(_after(rows[0]["generated_token_ids"], prompts[i], tokenizer.pad_token_id), stops)
    return measure.Timed({"ids": ids}, times)


def _by_ids(plain: Any, known: dict[str, list[int]]) -> Any:
    """The tokenizer gives our ids for a prompt: one text has several tokenizations, and both sides shall read the same."""

    def call(self, text, **options):
        if not (isinstance(text, str) and text in known):
            return plain(self, text, **options)
        from transformers import BatchEncoding

        row = {"input_ids": [known[text]], "attention_mask": [[1] * len(known[text])]}
        return BatchEncoding(row, tensor_type=options.get("return_tensors"))

    return call


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _after(row: list[int], prompt: list[int], pad: int) -> list[int]:
    start = next(k for k in range(len(row)) if row[k : k + len(prompt)] == prompt)
    return list(row[start + len(prompt) :])


def _until(row: list[int], stops: frozenset[int]) -> list[int]:
    end = next((k + 1 for k, token in enumerate(row) if token in stops), len(row))
    return row[:end]


def llama(file: str, name: str, dtype: str, count: int, longest: int, shots: int) -> measure.Timed:
    """llama.cpp's HTTP server in a thread of this process, asked by as many clients as it has slots."""
    import json
    import os
    import urllib.request
    from concurrent.futures import ThreadPoolExecutor

    import xllamacpp

    from emplifai.backends import decoding, weights

    entry = Model(backend="transformers", model=name)
    tokenizer = weights.load_tokenizer(entry)
    prompts = told(tokenizer, count, shots)
    model, _ = weights.load(entry)
    stops = decoding.stop_ids(model, tokenizer)
    del model
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_parallel, settings.n_ctx = file, SLOTS, SLOTS * (max(map(len, prompts)) + longest + 8)
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    settings.port, settings.verbosity = 0, 1  # errors only
    server = xllamacpp.Server(settings)

    def ask(prompt: list[int]) -> list[int]:
        body = {"prompt": prompt, "n_predict": longest, "temperature": 0, "stop": ["\n"], "return_tokens": True}
        request = urllib.request.Request(
            f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["tokens"]

    watch = measure.Watch()
    with ThreadPoolExecutor(SLOTS) as pool:
        ids = list(pool.map(ask, prompts))
    times = watch.read()
    return measure.Timed({"ids": [_until(row, stops) for row in ids]}, times)


if __name__ == "__main__":
    main()
