"""The training loop: LoRA weights, AdamW, warm-up and cosine, dev losses, checkpoints; in one process or several alike."""

import itertools
import math
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from emplifai import examples as ex
from emplifai import lora, loss, ranks
from emplifai.backends import memory, norms
from emplifai.checkpoints import Checkpoints
from emplifai.errors import UserError
from emplifai.params import Finetune
from emplifai.progress import Progress


@dataclass
class Run:
    """What training has come to: written into each checkpoint as it is."""

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)  # weights of the lowest dev loss
    best_step: int = 0
    worse: int = 0  # evaluations since
    dev_before: dict[str, float] = field(default_factory=dict)
    dev: dict[str, float] = field(default_factory=dict)  # of the best weights
    tokens: int = 0
    stopped: bool = False


class Trainer:
    """model: with a LoRA adapter attached, the rest frozen. plain_head: see loss.is_plain_head."""

    def __init__(self, model: Any, settings: Finetune, train: list, dev: list, checkpoints: Checkpoints):
        import torch

        self.model, self.settings, self.train, self.dev, self.checkpoints = model, settings, train, dev, checkpoints
        self.device = model.get_input_embeddings().weight.device
        lora.fuse(model)
        norms.in_blocks(model)
        self.plain_head = loss.is_plain_head(model)
        self.weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.epoch_steps = math.ceil(len(train) / settings.batch_size)
        self.steps = max(1, round(settings.epochs * self.epoch_steps))
        self.run = Run()
        self.pace: list[dict[str, float]] = []  # of this process: what differs from run to run
        self._epoch: tuple[int, list] = (-1, [])
        if ranks.number():
            torch.manual_seed(settings.seed + ranks.number())  # all have the same first weights; each drops out units of its own

    def fit(self) -> Run:
        """Train to the end, from the last checkpoint if there is one; the model then holds the best weights."""
        run, started = self.run, time.monotonic()
        if not self._resume():
            run.dev = run.dev_before = self.evaluate()
            run.history.append({"step": 0, "epoch": 0.0, **run.dev})
            run.best = self._copy()
        with Progress("finetune", self.steps - run.step, "steps", show=not ranks.number()) as progress:
            while run.step < self.steps and not run.stopped:
                row = self._step(run.step)
                run.step += 1
                run.history.append(row)
                self.pace.append(self._pace(time.monotonic() - started))
                if run.step % self._every() == 0 or run.step == self.steps:
                    self._judge()
                if run.step % self.settings.checkpoint_every == 0 and run.step < self.steps:
                    self._save()
                progress.add(note=f"loss {row['loss']:.3f}, dev {run.dev.get('dev_loss', math.nan):.3f}")
        self._save(done=True)
        self._restore(run.best)
        return run

    def evaluate(self) -> dict[str, float]:
        """Mean loss a token on dev, weighted as in training (dev_loss) and of each task; empty without dev dialogues."""
        self.model.eval()
        rows = sorted(self.dev, key=lambda e: len(e.ids))
        size = 2 * self.settings.batch_size
        found = [self._sums(part) for part in ranks.mine([rows[k : k + size] for k in range(0, len(rows), size)])]
        sums: dict[str, list[float]] = {}
        for part in (row for turn in itertools.zip_longest(*ranks.gathered(found), fillvalue={}) for row in turn):
            for name, (value, weight) in part.items():
                total = sums.setdefault(name, [0.0, 0.0])
                total[0] += value
                total[1] += weight
        return {name: total / weight for name, (total, weight) in sorted(sums.items())}

    def _sums(self, part: list) -> dict[str, list[float]]:
        """Of some dialogues {loss: [weighted sum, weight]}."""
        import torch

        with torch.no_grad(), self._autocast():
            _, losses = loss.token_losses(self.model, *ex.pad(part, self.device), self.plain_head)
        sums: dict[str, list[float]] = {}
        learnt = [(t, w) for e in part for t, w in zip(e.tasks[1:], e.weights[1:], strict=True) if w > 0]
        for (task, weight), value in zip(learnt, losses.tolist(), strict=True):
            for name, w in (("dev_loss", weight), (f"dev_{task}_loss", 1.0)):
                total = sums.setdefault(name, [0.0, 0.0])
                total[0] += w * value
                total[1] += w
        return sums

    def _step(self, step: int) -> dict[str, float]:
        import torch

        self.model.train()
        rate = self._rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self._batch(step)
        whole = sum(sum(e.weights[1:]) for e in batch)
        value, size = 0.0, math.ceil(len(batch) / (self.settings.accumulation * ranks.count()))
        for part in ranks.mine([batch[k : k + size] for k in range(0, len(batch), size)]):
            with self._autocast():
                total, _ = loss.token_losses(self.model, *ex.pad(part, self.device), self.plain_head)
            (total / whole).backward()
            value += float(total.detach()) / whole
        ranks.add_gradients(self.weights.values())
        value = sum(ranks.gathered(value))
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights.values(), self.settings.max_grad_norm))
        if not math.isfinite(value + norm):
            raise UserError(f"finetune: step {step + 1}: the loss is {value}, its gradient {norm}; lower finetune.learning_rate")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.run.tokens += sum(len(e.ids) for e in batch)
        epoch = round((step + 1) / self.epoch_steps, 4)
        return {
            "step": step + 1,
            "epoch": epoch,
            "loss": value,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": self.run.tokens,
        }

    def _pace(self, seconds: float) -> dict[str, float]:
        used = memory.used(self.device)
        return {"step": self.run.step, "seconds": round(seconds, 2), "tokens": self.run.tokens, "memory_bytes": used}

    def _batch(self, step: int) -> list:
        epoch = step // self.epoch_steps
        if self._epoch[0] != epoch:
            self._epoch = (epoch, ex.batches(self.train, self.settings.batch_size, self.settings.seed + epoch))
        return self._epoch[1][step % self.epoch_steps]

    def _rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
        warm = math.ceil(self.settings.warmup * self.steps)
        if step < warm:
            return self.settings.learning_rate * (step + 1) / warm
        return self.settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def _every(self) -> int:
        return self.settings.evaluate_every or self.epoch_steps

    def _judge(self) -> None:
        """Take a dev loss, keep the best weights, see whether to stop. Without dev dialogues the last weights are kept."""
        run, found = self.run, self.evaluate()
        if found:
            run.history.append({"step": run.step, "epoch": round(run.step / self.epoch_steps, 4), **found})
        if not found or found["dev_loss"] < run.dev["dev_loss"]:
            run.dev, run.best, run.best_step, run.worse = found, self._copy(), run.step, 0
            return
        run.worse += 1
        run.stopped = self.settings.early_stop is not None and run.worse >= self.settings.early_stop

    def _autocast(self):
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.model.dtype == torch.bfloat16)

    def _copy(self) -> dict[str, Any]:
        return {name: p.detach().cpu().clone() for name, p in self.weights.items()}

    def _restore(self, state: dict[str, Any]) -> None:
        import torch

        with torch.no_grad():
            for name, p in self.weights.items():
                p.copy_(state[name])

    def _save(self, done: bool = False) -> None:
        """A checkpoint; when all is done only what the adapter is made from, a third of the size."""
        import torch

        cuda = torch.cuda.get_rng_state() if self.device.type == "cuda" else None
        random = ranks.gathered((torch.get_rng_state(), cuda))
        if ranks.number():
            return
        state = {} if done else {"weights": self._copy(), "optimizer": self.optimizer.state_dict(), "random": random}
        self.checkpoints.save({"run": vars(self.run), **state})

    def _resume(self) -> bool:
        import torch

        state = self.checkpoints.load()
        if state is None:
            return False
        self.run.__dict__.update(state["run"])
        if "weights" not in state:
            _say(f"finetune: these very weights were trained before ({self.run.step} steps)")
            return True
        self._restore(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        cpu, cuda = state["random"][ranks.number()]
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        _say(f"finetune: goes on from step {self.run.step} of {self.steps}")
        return True


def _say(text: str) -> None:
    if not ranks.number():
        print(text, file=sys.stderr)
