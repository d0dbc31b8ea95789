"""Greedy matching of token embeddings: the precision, recall and F1 of BERTScore."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STEP = 8  # lengths are padded up to a multiple of this
CELLS = 2**20  # similarities of a block

Triple = tuple[float, float, float]


def padded(length: int) -> int:
    return -(-length // STEP) * STEP


def greedy(
    candidates: Sequence["Tensor"],
    candidate_weights: Sequence["Tensor"],
    references: Sequence["Tensor"],
    reference_weights: Sequence["Tensor"],
    pairs: Sequence[tuple[int, int]],
) -> list[Triple | None]:
    """P, R, F1 of each pair (index of a candidate, index of a reference); None where a side has no weighted token.

    candidates, references: (tokens, width) unit vectors, fp32; weights: (tokens,), 0 for special tokens, which can
    still be matched. A token is matched with the most similar token of the other text; P is the weighted mean over the
    candidate's tokens, R over the reference's. Source: Zhang et al., BERTScore (ICLR 2020), equations 1-3.

    Blocks have shapes that follow from the two lengths alone, so that a pair's score does not depend on its company.
    Unlike bert-score, padding is never matched: there it counts as similarity 0, which matters below 0 only.
    """
    left, right = _Flat(candidates, candidate_weights), _Flat(references, reference_weights)
    shapes = defaultdict(list)
    for k, (c, r) in enumerate(pairs):
        shapes[padded(len(candidates[c])), padded(len(references[r]))].append(k)
    scores: list[Triple | None] = [None] * len(pairs)
    for (width, height), members in sorted(shapes.items()):
        rows = max(1, CELLS // (width * height))
        for start in range(0, len(members), rows):
            block = members[start : start + rows]
            found = _block(left.take([pairs[k][0] for k in block], width), right.take([pairs[k][1] for k in block], height))
            for k, (p, r, f, defined) in zip(block, found, strict=True):
                scores[k] = (p, r, f) if defined else None
    return scores


class _Flat:
    """Texts end to end, with a last row of zeros that stands for padding: a block is one gather."""

    def __init__(self, texts: Sequence["Tensor"], weights: Sequence["Tensor"]):
        import torch

        self.lengths = torch.tensor([len(t) for t in texts])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.vectors = torch.cat([*texts, torch.zeros_like(texts[0][:1])])
        self.weights = torch.cat([*weights, torch.zeros_like(weights[0][:1])])

    def take(self, rows: list[int], width: int):
        import torch

        place = torch.arange(width)[None]
        there = place < self.lengths[rows][:, None]
        index = torch.where(there, self.starts[rows][:, None] + place, len(self.vectors) - 1).to(self.vectors.device)
        return self.vectors[index], self.weights[index], there.to(self.vectors.device)


def _block(candidates, references) -> list[list[float]]:
    import torch

    (c, c_weight, c_there), (r, r_weight, r_there) = candidates, references
    similarity = torch.bmm(c, r.transpose(1, 2))
    similarity = similarity.masked_fill(~(c_there[:, :, None] & r_there[:, None, :]), -2)
    precision = (similarity.amax(2) * c_weight).sum(1) / c_weight.sum(1)
    recall = (similarity.amax(1) * r_weight).sum(1) / r_weight.sum(1)
    total = precision + recall
    f1 = torch.where(total == 0, 0, 2 * precision * recall / total)
    defined = (c_weight.sum(1) > 0) & (r_weight.sum(1) > 0)
    return torch.stack([precision, recall, f1, defined.float()], 1).tolist()
