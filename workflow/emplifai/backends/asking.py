"""Ask a judge on a server what its cache does not hold: within the budget, each question once, answers kept as they come."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from emplifai.backends import openai, verdicts
from emplifai.backends.openai import Answer, Request
from emplifai.cache import Cache
from emplifai.errors import UserError
from emplifai.params import JudgeModel, Params
from emplifai.progress import Progress


class Ask(Protocol):
    """What is asked: the body of the request, the key of its answer in the cache, and where in the answer scores stand."""

    request: Request
    key: str
    scores: tuple[str, ...]


def ask(asks: Sequence[Ask], endpoint: openai.Endpoint, name: str, judge: JudgeModel, params: Params, cache: Cache) -> "Told":
    """The answers of all. Raises UserError before the first byte when they would cost more than judge.max_cost_usd."""
    todo = missing(asks, cache)
    _refuse_cost(todo, asks, name, judge, params, cache)
    return Told(cache, _ask(todo, endpoint, name, judge, params, cache), len(todo))


class Told:
    """Answers by key: from the cache, but for failures of the transport, which are not kept there."""

    def __init__(self, cache: Cache, failed: dict[str, Answer], asked: int):
        self.cache, self.failed, self.asked = cache, failed, asked

    def __getitem__(self, key: str) -> Answer:
        return self.failed[key] if key in self.failed else Answer(**self.cache.get(key))


def missing(asks: Sequence[Ask], cache: Cache) -> list[Ask]:
    """What the cache does not hold, each once; the same beginnings together, so that servers can reuse their work on it."""
    unique = {ask.key: ask for ask in asks if ask.key not in cache}
    return sorted(unique.values(), key=lambda ask: [m["content"] for m in ask.request["messages"]])


def latency(answers: Sequence[Answer]) -> dict[str, Any]:
    """How long answers took, and how many tries: for run.json and the log. Times differ by run, so they stand in no table."""
    taken = sorted(a.seconds for a in answers if a.seconds)
    at = {f"p{round(100 * share)}": round(taken[round(share * (len(taken) - 1))], 3) for share in (0.5, 0.95, 0.99) if taken}
    longest = {"longest": round(taken[-1], 3)} if taken else {}
    return {"answers": len(answers), "tries": sum(a.tries for a in answers), "latency_s": at | longest}


def plan(asks: Sequence[Ask], name: str, judge: JudgeModel, params: Params, cache: Cache) -> str:
    """What `ask` would send, in words: questions, those in the cache, tokens and cost expected. Sends nothing."""
    todo = missing(asks, cache)
    inputs, outputs, source = _expected_tokens(todo, asks, params, cache)
    limit = params.judge.max_cost_usd
    return (
        f"judge {name}: {len({ask.key for ask in asks})} questions, {sum(ask.key in cache for ask in asks)} of "
        f"{len(asks)} answers cached, {len(todo)} to ask; about {inputs:,} input and {outputs:,} output tokens "
        f"({source}), {dollars(inputs, outputs, judge):.4f} USD" + ("" if limit is None else f" (judge.max_cost_usd: {limit:g})")
    )


def dollars(inputs: int, outputs: int, judge: JudgeModel) -> float:
    """By the prices of params.yaml."""
    return (inputs * judge.usd_per_million_input + outputs * judge.usd_per_million_output) / 1e6


def cost(got: Answer, judge: JudgeModel) -> float | None:
    """What an answer cost; None where the server does not say what it used."""
    return None if got.used is None else round(dollars(got.input_tokens, got.output_tokens or 0, judge), 9)


def _ask(
    asks: Sequence[Ask], endpoint: openai.Endpoint, name: str, judge: JudgeModel, params: Params, cache: Cache
) -> dict[str, Answer]:
    """Ask them; return the failures of the transport by key."""
    settings, failed, seconds = params.judge, {}, []
    with Progress(f"judge {name}", len(asks), "answers") as progress:

        def keep(index: int, got: Answer) -> None:
            seconds.append(got.seconds)
            progress.add()
            if got.status == "error":
                failed[asks[index].key] = got
            else:
                cache.put(asks[index].key, asdict(_lean(got, asks[index], name)))

        limits = openai.Limits(
            settings.max_in_flight,
            settings.timeout,
            settings.attempts,
            requests_per_minute=judge.requests_per_minute,
            tokens_per_minute=judge.tokens_per_minute,
        )
        openai.complete([ask.request for ask in asks], endpoint, limits, keep)
        taken = sorted(s for s in seconds if s)
        if taken:
            progress.note = f"an answer took {taken[len(taken) // 2]:.2f} s (median), {taken[-1]:.2f} s (longest)"
    return failed


def _lean(got: Answer, ask: Ask, name: str) -> Answer:
    """The answer with the probabilities of its scores only. Raises UserError when they were asked for and did not come."""
    if "logprobs" not in ask.request or got.status != "ok":
        got.tokens = None
    elif got.tokens is None:
        raise UserError(
            f"judges.{name}: this server ignores 'logprobs', so method 'expected' cannot be had from it; "
            f"set judges.{name}.method: stated (with judge.samples above 1 for a mean)"
        )
    else:
        got.tokens = [verdicts.score_token(got.tokens, key) or {} for key in ask.scores]
    return got


def _expected_tokens(todo: Sequence[Ask], asks: Sequence[Ask], params: Params, cache: Cache) -> tuple[int, int, str]:
    """Input and output tokens that the missing answers will need, and what this is based on.

    Cached answers of this judge tell tokens a character and an answer. With none: a token a character, which is at
    least what Japanese takes, and the longest answers allowed.
    """
    length = sum(openai.characters(ask.request) for ask in todo)
    known = [(openai.characters(ask.request), value) for ask in asks if (value := cache.get(ask.key))]
    known = [(size, v["input_tokens"], v["output_tokens"] or 0) for size, v in known if v["input_tokens"] is not None]
    if not known:
        return length, len(todo) * params.judge.max_tokens, "at most: a token a character, answers of full length"
    sizes, inputs, outputs = (sum(column) for column in zip(*known, strict=True))
    return round(length * inputs / sizes), round(len(todo) * outputs / len(known)), "as the cached answers"


def _refuse_cost(todo: Sequence[Ask], asks: Sequence[Ask], name: str, judge: JudgeModel, params: Params, cache: Cache) -> None:
    limit = params.judge.max_cost_usd
    inputs, outputs, source = _expected_tokens(todo, asks, params, cache)
    price = dollars(inputs, outputs, judge)
    if limit is not None and price > limit:
        raise UserError(
            f"judge {name}: {len(todo)} questions would cost about {price:.4f} USD ({source}), more than judge.max_cost_usd = "
            f"{limit:g}; nothing was sent. Raise it, or lower judge.samples, judge.criteria, judge.max_tokens or the models"
        )
