"""Write texts with a causal language model: greedy or sampled, in batches that finished rows leave.

Penalties count generated tokens only: a reply may take up the patient's words, but not repeat itself. What is drawn for
an item depends on its prompt, seed and sample only, not on the batch that it is in.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from emplifai.backends.batches import Reader
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

    drawn = [_uniforms(p, s, decoding) for p, s in zip(prompts, samples, strict=True)]
    written: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    batch = reader.read(prompts)
    logits = batch.logits[:, -1]
    for step in range(decoding.max_new_tokens):
        say(f"{len(alive)} texts at token {step + 1} of at most {decoding.max_new_tokens}")
        scores = penalise(logits.float(), [written[i] for i in alive], decoding)
        chosen = choose(scores, [drawn[i][step] for i in alive], decoding)
        for i, token in zip(alive, chosen, strict=True):
            written[i].append(token)
        stay = [k for k, token in enumerate(chosen) if token not in stops]
        if not stay or step + 1 == decoding.max_new_tokens:
            break
        if len(stay) < len(alive):
            batch.keep(torch.tensor(stay, device=reader.device))
            alive = [alive[k] for k in stay]
        logits = _step(reader, batch, [written[i][-1] for i in alive])
    return written


def _step(reader: Reader, batch, tokens: list[int]) -> Any:
    """Logits [rows, vocabulary] after one more token a row."""
    import torch

    batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(tokens), 1)], 1)
    ids = torch.tensor(tokens, device=reader.device)[:, None]
    logits = reader.forward(ids, batch.mask, batch.lengths[:, None], batch.cache, 1)
    batch.lengths = batch.lengths + 1
    return logits[:, -1]


def penalise(scores: Any, written: Sequence[list[int]], decoding: Decoding) -> Any:
    """Repetition penalty (Keskar et al. 2019, arXiv 1909.05858), then no repeated n-gram. scores [rows, vocabulary]."""
    import torch

    for row, tokens in zip(scores, written, strict=True):
        if decoding.repetition_penalty != 1 and tokens:
            seen = torch.tensor(sorted(set(tokens)), device=scores.device)
            values = row[seen]
            row[seen] = torch.where(values < 0, values * decoding.repetition_penalty, values / decoding.repetition_penalty)
        if banned := _banned(tokens, decoding.no_repeat_ngram):
            row[torch.tensor(sorted(banned), device=scores.device)] = -torch.inf
    return scores


def _banned(tokens: list[int], n: int) -> set[int]:
    """Tokens that would complete an n-gram which is there already."""
    if not n or len(tokens) < n:
        return set()
    last = tokens[len(tokens) - n + 1 :]
    return {tokens[k + n - 1] for k in range(len(tokens) - n + 1) if tokens[k : k + n - 1] == last}


def choose(scores: Any, drawn: Sequence[float], decoding: Decoding) -> list[int]:
    """The most probable token of each row, or the one at a drawn point of its cumulative distribution (nucleus: top_p,
    Holtzman et al. 2020, arXiv 1904.09751: the smallest set of most probable tokens that reaches top_p)."""
    import torch

    if not decoding.temperature:
        return scores.argmax(-1).tolist()
    p, ids = (scores / decoding.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    total = p.double().cumsum(-1)
    p = torch.where(total - p < decoding.top_p, p.double(), 0.0)
    total = p.cumsum(-1)
    point = torch.tensor(drawn, dtype=torch.float64, device=scores.device)[:, None] * total[:, -1:]
    place = torch.searchsorted(total, point, right=True).clamp(max=scores.shape[-1] - 1)
    return ids.gather(-1, place)[:, 0].tolist()


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
