"""The answers of a model of transformers: replies, emotions and likelihoods of the references, each kept in a cache.

The model is loaded when something is asked that the cache does not hold. Batches are planned over all items, cached or
not: a resumed run computes the rest in the same batches, so that it writes the same texts in bfloat16 too.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from emplifai import models, prompt
from emplifai.backends import batches, decoding, likelihoods, weights
from emplifai.cache import Cache
from emplifai.errors import UserError
from emplifai.labels import read
from emplifai.params import Generate, Model
from emplifai.progress import Progress
from emplifai.records import Dialogue, Reply, digest, file_sha256, sha256
from emplifai.shards import Shard


class Transformers:
    """A model of params.yaml that answers; `fresh` and `cached` count what was computed and what was known."""

    def __init__(
        self,
        name: str,
        entry: Model,
        generate: Generate,
        talk: prompt.Talk,
        cache: Cache,
        adapter: Path | None = None,
        shots: tuple[Dialogue, ...] = (),
    ):
        self.name, self.entry, self.generate, self.talk = name, entry, generate, talk
        self.cache, self.adapter, self.shots = cache, adapter, shots
        self.fresh = self.cached = 0
        self.shard: Shard | None = None  # with one, answers of other shards that the cache lacks are left out
        self.device = weights.default_device()
        if adapter is not None:
            weights.check_adapter(adapter, entry)

    @cached_property
    def tokenizer(self) -> Any:
        return weights.load_tokenizer(self.entry)

    @cached_property
    def reader(self) -> batches.Reader:
        import torch

        device = "auto" if torch.cuda.device_count() > 1 else None
        return batches.Reader(weights.load(self.entry, self.adapter, device=device)[0])

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What its answers depend on, besides prompt and settings."""
        files = ("adapter_config.json", "adapter_model.safetensors")
        return {
            "model": models.fingerprint(self.entry.model, self.entry.revision),
            "adapter": [file_sha256(self.adapter / f) for f in files] if self.adapter else None,
            "dtype": str(weights.resolve_dtype(self.entry.dtype, self.device)).removeprefix("torch."),
            "load_in_4bit": self.entry.load_in_4bit,
        }

    def reply(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """Supporter's replies, `samples` a dialogue."""
        g = self.generate
        told = [(d, prompt.split_at(self._pieces(d, g.emotion_in_prompt), "reply")[0]) for d in dialogues]
        plan = decoding.Decoding(g.max_new_tokens, g.temperature, g.top_p, g.repetition_penalty, g.no_repeat_ngram, g.seed)
        return self._write(told, "reply", plan, g.samples)

    def emotion(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """The label of each dialogue: the most probable of all, or what a greedy text names."""
        how = self.generate.emotion
        split = [prompt.split_at(self._pieces(d, reply=how.context == "dialogue"), "emotion") for d in dialogues]
        told = [(d, given) for d, (given, _) in zip(dialogues, split, strict=True)]
        if how.method == "text":
            longest = max(len(self._ids([(label.word + "\n", None)])) for label in self.talk.labels.values())
            return self._write(told, "emotion", decoding.Decoding(longest + 8), 1)
        answers = {}
        if dialogues:  # the answer of any dialogue shows how the prompt form ends an answer
            word, whole = self.talk.labels[dialogues[0].emotion].word, split[0][1]
            answers = {n: whole.replace(word, label.word, 1) for n, label in self.talk.labels.items()}
        return self._choose(told, answers)

    def likelihood(self, dialogues: Sequence[Dialogue]) -> list[dict[str, Any]]:
        """-log p(reference and its end | prompt) in nats, and tokens, of each dialogue; no sampling setting plays a part."""
        split = [prompt.split_at(self._pieces(d, self.generate.emotion_in_prompt), "reply") for d in dialogues]
        pairs = [(self._ids(given), prompt.encode_piece(answer, self.tokenizer)) for given, answer in split]
        keys = [self._key("likelihood", pair, {}) for pair in pairs]

        def compute(batch: list[int]) -> list[dict[str, Any]]:
            sums = likelihoods.score(self.reader, [pairs[i] for i in batch])
            return [{"tokens": len(pairs[i][1]), "nats": -s} for i, s in zip(batch, sums, strict=True)]

        prompts = [p + c for p, c in pairs]
        values = self._all("likelihood", keys, prompts, likelihoods.batches(pairs, self.generate.batch_tokens), compute)
        return [{"dialogue_id": d.dialogue_id, **value} for d, value in zip(dialogues, values, strict=True) if value]

    def _pieces(self, dialogue: Dialogue, emotion: bool = False, reply: bool = True) -> list[prompt.Segment]:
        told = dialogue.emotion if emotion else None
        return prompt.segments(dialogue, self.talk, self.tokenizer, told, reply, self.shots)

    def _ids(self, pieces: list[prompt.Segment]) -> list[int]:
        return prompt.encode(pieces, self.tokenizer)[0] or [self.tokenizer.eos_token_id]

    def _key(self, kind: str, item: Any, settings: dict[str, Any]) -> str:
        return digest([kind, self.identity, item, settings])

    def _write(self, told, task: str, how: decoding.Decoding, samples: int) -> list[Reply]:
        rows = [(d, given, self._ids(given), sample) for d, given in told for sample in range(samples)]
        settings = how.settings()
        keys = [self._key("text", [ids, sample], settings) for _, _, ids, sample in rows]
        plan = decoding.batches([r[2] for r in rows], self.generate.batch_tokens, how, self.device)

        def compute(batch: list[int]) -> list[dict[str, Any]]:
            some = [rows[i] for i in batch]
            prompts, numbers = [r[2] for r in some], [r[3] for r in some]
            written = decoding.write(self.reader, self.tokenizer, prompts, numbers, how, self._stops, self._say)
            return [w._asdict() for w in written]

        values = self._all(task, keys, [r[2] for r in rows], plan, compute)
        return [
            self._reply(task, d, given, ids, sample, settings, **value)
            for (d, given, ids, sample), value in zip(rows, values, strict=True)
            if value
        ]

    @cached_property
    def _stops(self) -> frozenset[int]:
        return decoding.stop_ids(self.reader.model, self.tokenizer)

    def _choose(self, told, answers: dict[str, str]) -> list[Reply]:
        names, settings = list(answers), {"method": "score", "answers": list(answers.values())}
        choices = likelihoods.Choices([prompt.encode_piece(a, self.tokenizer) for a in answers.values()])
        ids = [self._ids(given) for _, given in told]
        keys = [self._key("choice", row, settings) for row in ids]
        plan = choices.batches(ids, self.generate.batch_tokens)

        def compute(batch: list[int]) -> list[dict[str, Any]]:
            return [{"scores": s} for s in choices.score(self.reader, [ids[i] for i in batch])]

        values = self._all("emotion", keys, ids, plan, compute)
        replies = []
        for (d, given), row, value in zip(told, ids, values, strict=True):
            if not value:
                continue
            order = sorted(range(len(names)), key=lambda k: (-value["scores"][k], k))
            ranking = [names[k] for k in order]
            tokens = len(choices.answers[order[0]])
            text = self.talk.labels[ranking[0]].word
            replies.append(self._reply("emotion", d, given, row, 0, settings, text, "stop", tokens, ranking))
        return replies

    def _reply(self, task, dialogue, given, ids, sample, settings, text, finish_reason, tokens, ranking=None) -> Reply:
        label = None if task == "reply" else ranking[0] if ranking else read(text, self.talk.labels)
        return Reply(
            dialogue_id=dialogue.dialogue_id,
            model=self.name,
            task=task,
            sample=sample,
            text=text,
            finish_reason=finish_reason,
            prompt_sha256=sha256("".join(piece for piece, _ in given)),
            settings_sha256=digest([self.identity, settings]),
            text_sha256=sha256(text),
            input_tokens=len(ids),
            output_tokens=tokens,
            label=label,
            ranking=ranking,
        )

    def _all(self, what: str, keys: list[str], rows: list[list[int]], plan: list[list[int]], compute: Callable) -> list[Any]:
        """The value of each key, from the cache or computed; a batch is in the cache before the next one begins."""
        import torch

        plan = self.shard.of(plan) if self.shard else plan
        missing = {i for batch in plan for i in batch if keys[i] not in self.cache}
        items = sum(map(len, plan))
        self.fresh += len(missing)
        self.cached += items - len(missing)
        if missing:
            self.reader.share(rows)
        with Progress(f"{self.name}: {what}", items) as progress:
            self._say = lambda note: progress.add(0, note)
            progress.add(items - len(missing))
            for batch in batches.chunks(plan, missing):
                try:
                    values = compute(batch)
                except torch.OutOfMemoryError:
                    raise UserError(
                        f"models.{self.name}: no GPU memory for a batch of {len(batch)}; lower generate.batch_tokens "
                        f"(now {self.generate.batch_tokens}), or set load_in_4bit; what is done is kept"
                    ) from None
                for i, value in zip(batch, values, strict=True):
                    self.cache.put(keys[i], value)
                progress.add(len(batch))
        return [self.cache.get(key) for key in keys]
