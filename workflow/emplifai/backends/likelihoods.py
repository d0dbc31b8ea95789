"""How probable given texts are under a causal language model, by its full head."""

from collections.abc import Iterator, Sequence
from typing import Any

from emplifai.backends import caches, masks
from emplifai.backends.batches import Reader, plan
from emplifai.prompt import encode, encode_piece

HEAD_POSITIONS = 512  # logits of so many positions at once: 0.3 GB in bfloat16 for a vocabulary of 262k
TILE = 4096  # words whose logits are summed up at once: what stays in a processor's cache
Pair = tuple[list[int], list[int]]  # ids of the prompt and of what follows


def log_probabilities(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], batch_tokens: int = 8192
) -> list[tuple[float, int]]:
    """log p(continuation | prompt) in nats, and the continuation's number of tokens, for each pair of texts.

    Both are tokenised as prompt.encode does. An empty prompt is the beginning of a text (BOS, else the end-of-text token).
    """
    ids = [(encode([(p, None)], tokenizer)[0] or [tokenizer.eos_token_id], encode_piece(c, tokenizer)) for p, c in pairs]
    values: dict[int, float] = {}
    reader = Reader(model)
    for batch in batches(ids, batch_tokens):
        values |= zip(batch, score(reader, [ids[i] for i in batch]), strict=True)
    return [(values[i], len(ids[i][1])) for i in range(len(ids))]


def batches(pairs: Sequence[Pair], batch_tokens: int) -> list[list[int]]:
    """Indices of pairs that are read together: by length, within a number of tokens and of logits."""
    most = 1 + max((len(c) for _, c in pairs), default=0)
    return plan(
        [len(p) + len(c) for p, c in pairs],
        lambda rows, longest: rows * longest <= batch_tokens and rows * most <= HEAD_POSITIONS,
    )


def score(reader: Reader, pairs: Sequence[Pair]) -> list[float]:
    """log p of each continuation given its prompt (at least one token), in nats; one batch."""
    import torch

    longest = max(len(c) for _, c in pairs)
    if not longest:
        return [0.0] * len(pairs)
    with torch.inference_mode():
        logits = reader.read([p + c for p, c in pairs], keep=min(longest + 1, max(len(p) + len(c) for p, c in pairs))).logits
        return [_sum(row, c) for row, (_, c) in zip(logits, pairs, strict=True)]


def _sum(logits: Any, ids: list[int]) -> float:
    """log p of the last tokens of a row; logits [positions, vocabulary], the last position predicts what is not there."""
    import torch

    if not ids:
        return 0.0
    logits = logits[-len(ids) - 1 : -1]
    target = torch.tensor(ids, device=logits.device)[:, None]
    return float((logits.gather(1, target)[:, 0].float() - normaliser(logits)).double().sum())


def normaliser(logits: Any) -> Any:
    """log of the sum of exp over the vocabulary, in float32; logits [positions, vocabulary]."""
    import torch

    return torch.stack([part.float().logsumexp(-1) for part in logits.split(TILE, -1)]).logsumexp(0)


class Choices:
    """Answers to choose from (ids of each, its end included), as a trie: each beginning is read once, all in one pass."""

    def __init__(self, answers: Sequence[list[int]]):
        self.answers = list(answers)
        self.nodes = sorted({tuple(a[:k]) for a in answers for k in range(1, len(a))}, key=lambda n: (len(n), n))
        self._place = {node: k for k, node in enumerate(self.nodes)}

    def batches(self, prompts: Sequence[list[int]], batch_tokens: int) -> list[list[int]]:
        positions = len(self.nodes) + 1
        fits = lambda rows, longest: rows * (longest + positions) <= batch_tokens and rows * positions <= HEAD_POSITIONS  # noqa: E731
        return plan([len(p) for p in prompts], fits)

    def score(self, reader: Reader, prompts: Sequence[list[int]]) -> list[list[float]]:
        """log p of each answer after each prompt, in nats; one batch. Equal to one pass a pair of prompt and answer."""
        import torch

        if not masks.suffice(reader.model):
            return [[score(reader, [(p, a)])[0] for a in self.answers] for p in prompts]
        with torch.inference_mode():
            batch = reader.read(prompts)
            first = batch.logits[:, -1:]
            rest = self._read_nodes(reader, batch) if self.nodes else first[:, :0]
            return [self._sums(torch.cat(rows)) for rows in zip(first, rest, strict=True)]

    def _sums(self, logits: Any) -> list[float]:
        """logits [1 + nodes, vocabulary] of one prompt: its end, then each node."""
        norm = normaliser(logits).double()
        steps = list(self._steps())
        where = [k for _, k, _ in steps]
        values = logits[where, [t for _, _, t in steps]].double() - norm[where]
        sums = [0.0] * len(self.answers)
        for (answer, _, _), value in zip(steps, values.tolist(), strict=True):
            sums[answer] += value
        return sums

    def _steps(self) -> Iterator[tuple[int, int, int]]:
        """(answer, position whose logits predict the token, token)"""
        for number, answer in enumerate(self.answers):
            for k, token in enumerate(answer):
                yield number, 1 + self._place[tuple(answer[:k])] if k else 0, token

    def _read_nodes(self, reader: Reader, batch: Any) -> Any:
        import torch

        device, rows, width = reader.device, *batch.mask.shape
        ids = torch.tensor([[node[-1] for node in self.nodes]], device=device).expand(rows, -1)
        depth = torch.tensor([len(node) for node in self.nodes], device=device)
        at = batch.lengths[:, None] + depth[None] - 1
        family = torch.tensor([[n[: len(m)] == m for m in self.nodes] for n in self.nodes], device=device)
        see = torch.cat([batch.mask.bool()[:, None].expand(-1, len(depth), -1), family.expand(rows, -1, -1)], 2)
        before = torch.arange(width, device=device)[None] - (width - batch.lengths[:, None])
        mask = masks.additive(reader.model, see, at, torch.cat([before, at], 1), caches.shared(batch.cache))
        return reader.forward(ids, mask, at, batch.cache, len(self.nodes))
