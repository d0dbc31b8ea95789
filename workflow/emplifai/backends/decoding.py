"""Write texts with a causal language model: greedy or sampled, in batches that finished rows leave.

Penalties count generated tokens only: a reply may take up the patient's words, but not repeat itself. What is drawn for
an item depends on its prompt, seed and sample only, not on the batch that it is in.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from emplifai.backends import caches
from emplifai.backends.batches import Reader, common, plan
from emplifai.prompt import encode_piece
from emplifai.records import digest


@dataclass(frozen=True)
class Decoding:
    """Settings; temperature 0 is greedy, a penalty of 1 and an n-gram of 0 are off."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """What the text depends on: seed and top_p only where something is drawn."""
        values = asdict(self)
        return values if self.temperature else {k: v for k, v in values.items() if k not in ("top_p", "seed")}


class Written(NamedTuple):
    text: str  # stripped
    finish_reason: str  # stop | length | empty
    tokens: int  # generated, the end included


def batches(prompts: Sequence[list[int]], batch_tokens: int, decoding: Decoding, device: str) -> list[list[int]]:
    """Indices of prompts that are continued together: within a number of tokens that the model keeps.

    On a processor what all prompts begin with is kept once (prefix.py), and not counted.
    """
    shared = len(common(prompts)) if device == "cpu" else 0
    own = [len(prompt) - shared for prompt in prompts]
    return plan(own, lambda rows, longest: rows * (longest + decoding.max_new_tokens) <= batch_tokens)


def write(
    reader: Reader,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    samples: Sequence[int],
    decoding: Decoding,
    stops: frozenset[int],
    say: Callable[[str], None] = lambda text: None,
) -> list[Written]:
    """Continue each prompt (one batch) until a stop token or max_new_tokens; prompts and samples: equally long.

    say: told at each token how far the batch is.
    """
    import torch

    with torch.inference_mode():
        rows = _decode(reader, prompts, samples, decoding, stops, say)
    return [_read(row, tokenizer, stops) for row in rows]


def _decode(reader, prompts, samples, decoding, stops, say) -> list[list[int]]:
    import torch

    drawn = torch.tensor([_uniforms(p, s, decoding) for p, s in zip(prompts, samples, strict=True)], dtype=torch.float64)
    written: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    batch = reader.read(prompts)
    logits, seen = batch.logits[:, -1], batch.mask[:, :0]
    for step in range(decoding.max_new_tokens):
        say(f"{len(alive)} texts at token {step + 1} of at most {decoding.max_new_tokens}")
        chosen = choose(logits, seen, drawn[alive, step], decoding)
        seen = torch.cat([seen, chosen[:, None]], 1)
        for i, token in zip(alive, tokens := chosen.tolist(), strict=True):
            written[i].append(token)
        stay = [k for k, token in enumerate(tokens) if token not in stops]
        if not stay or step + 1 == decoding.max_new_tokens:
            break
        if len(stay) < len(alive):
            order = caches.remaining(stay)
            rows = torch.tensor(order, device=reader.device)
            batch.keep(rows)
            alive, seen = [alive[k] for k in order], seen[rows]
        logits = _step(reader, batch, seen[:, -1:])
    return written


def _step(reader: Reader, batch, ids: Any) -> Any:
    """Logits [rows, vocabulary] after one more token a row; ids [rows, 1]."""
    import torch

    batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(ids), 1)], 1)
    logits = reader.forward(ids, batch.mask, batch.lengths[:, None], batch.cache, 1)
    batch.lengths = batch.lengths + 1
    return logits[:, -1]


def choose(logits: Any, seen: Any, drawn: Any, decoding: Decoding) -> Any:
    """The next token of each row [rows]. logits [rows, vocabulary], which change; seen: the ids written so far [rows, tokens].

    Greedy, or the token at the point `drawn` [rows] of the cumulative distribution (nucleus).
    """
    import torch

    if decoding.repetition_penalty == 1 and not decoding.no_repeat_ngram:
        seen = seen[:, :0]
    values = penalised(logits, seen, decoding)
    places = (torch.arange(len(seen), device=seen.device)[:, None], seen)  # scatter_ takes 76 ms for 256 rows, index_put_ 0.07
    if decoding.temperature:
        return sample(logits.float().index_put_(places, values), drawn, decoding)
    return most_probable(logits.index_put_(places, logits.new_tensor(float("-inf"))), seen, values)


def penalised(logits: Any, seen: Any, decoding: Decoding) -> Any:
    """Values of the ids seen, in float32 [rows, tokens]: the repetition penalty (Keskar et al. 2019, arXiv 1909.05858), and
    -inf for an id that would complete an n-gram which is there already."""
    import torch

    values, n = logits.gather(1, seen).float(), decoding.no_repeat_ngram
    values = torch.where(values < 0, values * decoding.repetition_penalty, values / decoding.repetition_penalty)
    if not n or seen.shape[1] < n:
        return values
    grams = seen.unfold(1, n, 1)
    ends = seen[:, n - 1 :].masked_fill(~(grams[:, :, :-1] == seen[:, None, seen.shape[1] - n + 1 :]).all(-1), -1)
    return values.masked_fill((seen[:, :, None] == ends[:, None]).any(-1), -torch.inf)


def most_probable(rest: Any, seen: Any, values: Any) -> Any:
    """The id of the largest logit in each row, the lowest of equal ones. rest [rows, vocabulary]: without the ids seen."""
    import torch

    rows, vocabulary = rest.shape
    width = min(256, vocabulary & -vocabulary)  # argmax is slow on a processor: find the best block, then look into it
    blocks = rest.unflatten(1, (-1, width))
    block = blocks.amax(-1).argmax(-1)
    found = blocks[torch.arange(rows, device=rest.device), block]
    best, ids = found.amax(-1).float(), block * width + found.argmax(-1)
    if not values.shape[1]:
        return ids
    top = values.amax(-1)
    other = seen.masked_fill(values < top[:, None], vocabulary).amin(-1)
    return torch.where(top == best, torch.minimum(other, ids), torch.where(top > best, other, ids))


def sample(scores: Any, drawn: Any, decoding: Decoding) -> Any:
    """The token at a drawn point of each row's cumulative distribution (nucleus: Holtzman et al. 2020, arXiv 1904.09751:
    the smallest set of most probable tokens that reaches top_p). scores [rows, vocabulary]."""
    import torch

    p, ids = (scores / decoding.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    total = p.double().cumsum(-1)
    p = torch.where(total - p < decoding.top_p, p.double(), 0.0)
    total = p.cumsum(-1)
    point = drawn.to(scores.device)[:, None] * total[:, -1:]
    place = torch.searchsorted(total, point, right=True).clamp(max=scores.shape[-1] - 1)
    return ids.gather(-1, place)[:, 0]


def _uniforms(prompt: list[int], sample: int, decoding: Decoding) -> list[float]:
    """A number in [0, 1) for each token to draw, from the prompt, the seed and the sample alone."""
    import torch

    if not decoding.temperature:
        return [0.0] * decoding.max_new_tokens
    seed = int(digest([decoding.seed, prompt, sample])[:15], 16)
    return torch.rand(decoding.max_new_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()


def _read(row: list[int], tokenizer: Any, stops: frozenset[int]) -> Written:
    """The text of generated ids. A stop token may hold words before its line break: they are kept."""
    ended = row[-1] in stops
    text = tokenizer.decode(row, skip_special_tokens=True)
    if not getattr(tokenizer, "chat_template", None):
        text = text.split("\n", 1)[0]
    text = text.strip()
    return Written(text, ("stop" if ended else "length") if text else "empty", len(row))


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Where an answer ends: the model's own end tokens; in the plain form a line break, in chat the end of a turn."""
    own = model.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    if getattr(tokenizer, "chat_template", None):
        return frozenset(ids | _end_of_turn(tokenizer))
    # as written in the vocabulary: plain, as a byte (byte-level BPE), as a byte token (SentencePiece)
    return frozenset(
        ids | {i for token, i in tokenizer.get_vocab().items() if "\n" in token or "Ċ" in token or token == "<0x0A>"}
    )


def _end_of_turn(tokenizer: Any) -> set[int]:
    """The first special token that the template puts after an assistant's words."""
    talk = [{"role": "user", "content": "あ"}, {"role": "assistant", "content": "い"}]
    tail = tokenizer.apply_chat_template(talk, tokenize=False).rpartition("い")[2]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(tokenizer.all_special_ids)
    return set([i for i in encode_piece(tail, tokenizer) if i in special][:1])
