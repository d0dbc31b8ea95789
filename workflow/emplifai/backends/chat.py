"""The answers of a chat model on an OpenAI-compatible server: replies and emotions, each kept in a cache as it arrives."""

import re
from collections.abc import Sequence
from typing import Any

from emplifai import prompt
from emplifai.backends import openai
from emplifai.cache import Cache
from emplifai.labels import read
from emplifai.params import Model, Params
from emplifai.progress import Progress
from emplifai.records import Dialogue, Reply, digest, sha256

REASONING = re.compile(
    r"\A\s*<think>.*?(</think>|\Z)", re.DOTALL
)  # what servers without a reasoning parser leave before an answer


class Chat:
    """A model of params.yaml on a server; `fresh` and `cached` count what was asked and what was known."""

    device = "server"

    def __init__(
        self, name: str, entry: Model, params: Params, talk: prompt.Talk, cache: Cache, shots: tuple[Dialogue, ...] = ()
    ):
        self.name, self.entry, self.generate, self.talk = name, entry, params.generate, talk
        self.cache, self.shots = cache, shots
        self.endpoint = openai.endpoint(f"models.{name}", entry, params.data)
        self.limits = openai.Limits(self.generate.max_in_flight, self.generate.timeout)
        self.fresh = self.cached = 0

    def reply(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """Supporter's replies, `samples` a dialogue. The server has neither repetition_penalty nor no_repeat_ngram."""
        g = self.generate
        told = [(d, prompt.question(d, self.talk, "reply", self._told(d), shots=self.shots)) for d in dialogues]
        settings = {"max_tokens": g.max_new_tokens, "temperature": g.temperature}
        return self._ask(told, "reply", settings | ({"top_p": g.top_p} if g.temperature else {}), g.samples)

    def emotion(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """The label that the server's greedy answer names."""
        whole = self.generate.emotion.context == "dialogue"
        told = [(d, prompt.question(d, self.talk, "emotion", None, whole, self.shots)) for d in dialogues]
        return self._ask(told, "emotion", {"max_tokens": 32, "temperature": 0.0}, 1)

    def likelihood(self, dialogues: Sequence[Dialogue]) -> list[dict[str, Any]]:
        """None: the protocol has no likelihood of a given text."""
        return []

    def _told(self, dialogue: Dialogue) -> str | None:
        return dialogue.emotion if self.generate.emotion_in_prompt else None

    def _ask(self, told, task: str, settings: dict[str, Any], samples: int) -> list[Reply]:
        rows = [(d, messages, sample) for d, messages in told for sample in range(samples)]
        requests = [self._request(messages, settings, sample) for _, messages, sample in rows]
        keys = [digest(["chat", self.endpoint.url, self.endpoint.model, request]) for request in requests]
        missing = [i for i, key in enumerate(keys) if key not in self.cache]
        self.fresh += len(missing)
        self.cached += len(keys) - len(missing)
        failed: dict[str, dict] = {}
        with Progress(f"{self.name}: {task}", len(missing)) as progress:

            def arrived(k: int, answer: openai.Answer) -> None:
                key = keys[missing[k]]
                if answer.status == "error":  # not kept: the next run asks again
                    failed[key] = {"text": "", "finish_reason": "error", "input_tokens": None, "output_tokens": None}
                elif key not in self.cache:
                    self.cache.put(key, self._value(answer))
                progress.add()

            openai.complete([requests[i] for i in missing], self.endpoint, self.limits, arrived)
        values = [self.cache.get(key) or failed[key] for key in keys]
        return [
            self._reply(task, d, messages, sample, settings, **value)
            for (d, messages, sample), value in zip(rows, values, strict=True)
        ]

    def _request(self, messages: list[prompt.Message], settings: dict[str, Any], sample: int) -> openai.Request:
        drawn = {"seed": int(digest([self.generate.seed, messages, sample])[:7], 16)} if settings["temperature"] else {}
        return {"messages": messages, **settings, **drawn}

    def _value(self, answer: openai.Answer) -> dict[str, Any]:
        text = REASONING.sub("", answer.text).strip()
        reason = "empty" if not text else "length" if answer.finish_reason == "length" else "stop"
        tokens = {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens}
        return {"text": text, "finish_reason": "error" if answer.status == "refused" else reason, **tokens}

    def _reply(self, task, dialogue, messages, sample, settings, text, finish_reason, input_tokens, output_tokens) -> Reply:
        return Reply(
            dialogue_id=dialogue.dialogue_id,
            model=self.name,
            task=task,
            sample=sample,
            text=text,
            finish_reason=finish_reason,
            prompt_sha256=digest(messages),
            settings_sha256=digest([self.endpoint.model, settings]),
            text_sha256=sha256(text),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            label=read(text, self.talk.labels) if task == "emotion" else None,
        )
