"""The body of a chat request and of its answer, as OpenAI-compatible servers want and give them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from emplifai.backends.attempts import Failure

Request = dict[str, Any]  # body of a request without "model": {"messages": [...], "max_tokens": 80, "temperature": 0, ...}


@dataclass(slots=True)
class Answer:
    """What a server answered, or why there is no answer."""

    status: str  # ok | refused | error
    text: str = ""
    finish_reason: str | None = None  # stop | length | content_filter | ...
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 0.0  # of the try that succeeded
    tries: int = 1
    error: str = ""  # "kind: detail" of the last try, for status error
    tokens: list[dict] | None = None  # logprobs.content as the server gives it: a token, its logprob, top_logprobs

    @property
    def used(self) -> int | None:
        """Input and output tokens, where the server says."""
        return None if self.input_tokens is None else self.input_tokens + (self.output_tokens or 0)


def characters(request: Request) -> int:
    """Length of all messages of a request."""
    return sum(len(message["content"]) for message in request["messages"])


# What a server may refuse, and what to send instead: (what the body must hold, what the message must hold, new body)
CHANGES: dict[str, tuple[str, str, Callable[[Request], Request]]] = {
    "max_completion_tokens": (
        "max_tokens",
        "max_completion_tokens",
        lambda body: {"max_completion_tokens" if k == "max_tokens" else k: v for k, v in body.items()},
    ),
    "no response_format": ("response_format", "", lambda body: {k: v for k, v in body.items() if k != "response_format"}),
}


def remedy(body: Request, failure: Failure) -> set[str]:
    """The change to try after a refused request: the first that fits."""
    if failure.status not in (400, 422):
        return set()
    return set([name for name, (key, word, _) in CHANGES.items() if key in body and word in failure.detail][:1])


def changed(body: Request, changes: set[str]) -> Request:
    for name in sorted(changes):
        body = CHANGES[name][2](body)
    return body


def read(text: str) -> Answer:
    """The answer in the body of a response. Raises Failure when it is no chat completion."""
    try:
        data = json.loads(text)
        choice = data["choices"][0]
        message = choice["message"]
        content, usage = message.get("content"), data.get("usage") or {}
        if not isinstance(content, str | None):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
        refused = bool(message.get("refusal")) or choice.get("finish_reason") == "content_filter"
        return Answer(
            "refused" if refused else "ok",
            content or message.get("refusal") or "",
            choice.get("finish_reason"),
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
            tokens=(choice.get("logprobs") or {}).get("content"),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise Failure("schema", f"no chat completion but {text[:200]!r}") from None


def message_of(text: str) -> str:
    """What a server says in the body of an error: its message, or the beginning of the body."""
    try:
        body = json.loads(text)
        error = body.get("error", body)
        text = error if isinstance(error, str) else error.get("message") or error.get("detail") or text
    except (ValueError, AttributeError):
        pass
    return " ".join(str(text).split())[:300]
