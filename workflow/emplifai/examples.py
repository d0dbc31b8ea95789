"""Dialogues as token ids with a loss weight a token, and batches of similar length."""

import random
from dataclasses import dataclass
from typing import Any

from emplifai import prompt
from emplifai.params import Finetune
from emplifai.records import Dialogue, sha256

TASKS = ("reply", "emotion")


@dataclass(frozen=True, slots=True)
class Example:
    """ids: tokens of a dialogue. weights: of each token in the loss, 0 where it is given. tasks: who learns it."""

    ids: list[int]
    weights: list[float]
    tasks: list[str | None]


def choose(dialogues: list[Dialogue], limit: int | None) -> list[Dialogue]:
    """At most `limit` dialogues, balanced over emotions, then over situations; drawn by hash, so order never matters."""
    ranked, seen, within = [], {}, {}
    for d in sorted(dialogues, key=lambda d: sha256(d.dialogue_id)):
        nth = within[d.situation_id] = within.get(d.situation_id, -1) + 1
        ranked.append((nth, sha256(d.situation_id), d))
    chosen = []
    for nth, situation, d in sorted(ranked, key=lambda row: row[:2]):
        turn = seen[d.emotion] = seen.get(d.emotion, -1) + 1
        chosen.append((turn, sha256(d.emotion), nth, situation, d))
    return [row[-1] for row in sorted(chosen, key=lambda row: row[:4])][:limit]


def encode(dialogues: list[Dialogue], talk: prompt.Talk, tokenizer: Any, settings: Finetune) -> tuple[list[Example], int]:
    """Examples in the order of the dialogues, and how many were longer than max_tokens and left out."""
    weight = {"reply": 1.0, "emotion": settings.emotion_weight}
    weight = {task: w for task, w in weight.items() if task in settings.tasks}
    examples = []
    for dialogue in dialogues:
        ids, tasks = prompt.encode(prompt.segments(dialogue, talk, tokenizer), tokenizer)
        if len(ids) <= settings.max_tokens:
            examples.append(Example(ids, [weight.get(task, 0.0) for task in tasks], tasks))
    return examples, len(dialogues) - len(examples)


def batches(examples: list[Example], size: int, seed: int) -> list[list[Example]]:
    """All examples once, in batches of similar length, in an order drawn by the seed (one epoch)."""
    draw = random.Random(seed)
    order = list(examples)
    draw.shuffle(order)
    pool = 16 * size  # sorted within pools only: batches stay mixed
    order = [e for k in range(0, len(order), pool) for e in sorted(order[k : k + pool], key=lambda e: len(e.ids))]
    groups = [order[k : k + size] for k in range(0, len(order), size)]
    draw.shuffle(groups)
    return groups


def pad(examples: list[Example], device: Any) -> tuple[Any, Any, Any]:
    """ids, attention mask and weights, each [examples, longest]; padded on the right, with weight 0."""
    import torch

    width = max(len(e.ids) for e in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    mask, weights = torch.zeros_like(ids), torch.zeros(len(examples), width)
    for row, e in enumerate(examples):
        ids[row, : len(e.ids)] = torch.tensor(e.ids)
        mask[row, : len(e.ids)] = 1
        weights[row, : len(e.ids)] = torch.tensor(e.weights)
    return ids.to(device), mask.to(device), weights.to(device)
