"""An LLM on an OpenAI-compatible server as judge: each criterion asked apart, answers kept in the cache as they come."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

from emplifai import labels
from emplifai.backends import openai, rubric
from emplifai.backends.openai import Answer, Request
from emplifai.cache import Cache
from emplifai.errors import UserError
from emplifai.params import JudgeModel, Params
from emplifai.paths import Paths
from emplifai.progress import Progress
from emplifai.records import Judgement, Question, digest, sha256


class Item(NamedTuple):
    """One score to be asked for."""

    question: Question
    criterion: str
    sample: int
    request: Request
    key: str  # of the answer in the cache


def answer(questions: Sequence[Question], name: str, judge: JudgeModel, params: Params, paths: Paths) -> Iterator[Judgement]:
    """A Judgement for each question, criterion and sample, in this order; method "stated" or "expected".

    Answers go to .cache/judge/NAME as they arrive; failures of the transport do not, so the next run asks those again.
    Raises UserError before the first byte when texts must not be sent there or it would cost too much, and when no
    request can succeed.
    """
    endpoint = openai.endpoint(f"judges.{name}", judge, params.data)
    method = judge.method or params.judge.method
    rubric.check(params.judge.rubric, judge.criteria or params.judge.criteria, params.judge.scale, method)
    items = list(_items(questions, judge, params))
    cache = Cache(paths.cache / "judge" / name)
    try:
        missing = _missing(items, cache)
        _refuse_cost(missing, items, name, judge, params, cache)
        failed = _ask(missing, endpoint, name, judge, params, cache)
        for item in items:
            got = failed[item.key] if item.key in failed else Answer(**cache.get(item.key))
            yield _judgement(item, got, name, judge, params.judge.scale, method)
    finally:
        cache.close()


def plan(questions: Sequence[Question], name: str, judge: JudgeModel, params: Params, paths: Paths) -> str:
    """What `answer` would ask, in words: questions, those in the cache, tokens and cost expected. Sends nothing."""
    items = list(_items(questions, judge, params))
    cache = Cache(paths.cache / "judge" / name)
    missing = _missing(items, cache)
    inputs, outputs, source = _expected_tokens(missing, items, params, cache)
    limit = params.judge.max_cost_usd
    return (
        f"judge {name}: {len({item.key for item in items})} questions, {len(items) - len(_missing_rows(items, cache))} of "
        f"{len(items)} judgements cached, {len(missing)} to ask; about {inputs:,} input and {outputs:,} output tokens "
        f"({source}), {_dollars(inputs, outputs, judge):.4f} USD" + ("" if limit is None else f" (judge.max_cost_usd: {limit:g})")
    )


def _items(questions: Sequence[Question], judge: JudgeModel, params: Params) -> Iterator[Item]:
    known = labels.load(params.data.labels)
    settings = params.judge
    for question in questions:
        for criterion in judge.criteria or settings.criteria:
            talk = rubric.messages(question, criterion, settings.rubric, known, settings.scale)
            for sample in range(judge.samples or settings.samples):
                request = _request(talk, sample, judge, params)
                yield Item(question, criterion, sample, request, digest([judge.model, judge.revision, request]))


def _request(talk: list[dict[str, str]], sample: int, judge: JudgeModel, params: Params) -> Request:
    settings = params.judge
    request = {
        "messages": talk,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "seed": settings.seed + sample,  # makes each sample a question of its own
        "response_format": rubric.schema(settings.scale),
    }
    if (judge.method or settings.method) == "expected":
        request |= {"logprobs": True, "top_logprobs": 20}
    return request


def _missing_rows(items: Sequence[Item], cache: Cache) -> list[Item]:
    return [item for item in items if item.key not in cache]


def _missing(items: Sequence[Item], cache: Cache) -> list[Item]:
    """What the cache does not hold, each once; the same beginnings together, so that servers can reuse their work on it."""
    unique = {item.key: item for item in _missing_rows(items, cache)}
    return sorted(unique.values(), key=lambda item: [m["content"] for m in item.request["messages"]])


def _ask(
    items: Sequence[Item], endpoint: openai.Endpoint, name: str, judge: JudgeModel, params: Params, cache: Cache
) -> dict[str, Answer]:
    """Ask the items; return the failures of the transport by key."""
    settings, failed, seconds = params.judge, {}, []
    with Progress(f"judge {name}", len(items), "answers") as progress:

        def keep(index: int, got: Answer) -> None:
            seconds.append(got.seconds)
            progress.add()
            if got.status == "error":
                failed[items[index].key] = got
            else:
                cache.put(items[index].key, asdict(_lean(got, items[index].request, name)))

        limits = openai.Limits(
            settings.max_in_flight,
            settings.timeout,
            settings.attempts,
            requests_per_minute=judge.requests_per_minute,
            tokens_per_minute=judge.tokens_per_minute,
        )
        openai.complete([item.request for item in items], endpoint, limits, keep)
        progress.note = _latency(seconds)
    return failed


def _latency(seconds: Sequence[float]) -> str:
    """How long answers took, for the log: times are not reproducible, so they stand in no table."""
    if len(taken := sorted(s for s in seconds if s)) < 2:
        return ""
    at = [taken[round(share * (len(taken) - 1))] for share in (0.5, 0.95, 1)]
    return f"an answer took {at[0]:.2f} s (median), {at[1]:.2f} s (95%), {at[2]:.2f} s (longest)"


def _lean(got: Answer, request: Request, name: str) -> Answer:
    """The answer with the probabilities of its score only. Raises UserError when they were asked for and did not come."""
    if "logprobs" not in request or got.status != "ok":
        got.tokens = None
    elif got.tokens is None:
        raise UserError(
            f"judges.{name}: this server ignores 'logprobs', so method 'expected' cannot be had from it; "
            f"set judges.{name}.method: stated (with judge.samples above 1 for a mean)"
        )
    else:
        token = rubric.score_token(got.tokens)
        got.tokens = [token] if token else []
    return got


def _judgement(item: Item, got: Answer, name: str, judge: JudgeModel, scale: tuple[int, int], method: str) -> Judgement:
    score, status, said = _score(got, scale, method)
    return Judgement(
        judge=name,
        dialogue_id=item.question.dialogue.dialogue_id,
        model=item.question.model,
        criterion=item.criterion,
        sample=item.sample,
        score=score,
        status=status,
        method=method,
        rationale=said,
        raw=got.text or got.error,
        prompt_sha256=digest(item.request["messages"]),
        text_sha256=sha256(item.question.text),
        input_tokens=got.input_tokens,
        output_tokens=got.output_tokens,
        cost_usd=None if got.used is None else round(_dollars(got.input_tokens, got.output_tokens or 0, judge), 9),
    )


def _score(got: Answer, scale: tuple[int, int], method: str) -> tuple[float | None, str, str]:
    """Score, status and rationale (or why there is no score)."""
    if got.status != "ok":
        return None, got.status, got.error
    verdict = rubric.read(got.text, scale)
    if verdict.score is None:
        return None, "unparsed", verdict.reason
    if method == "stated":
        return verdict.score, "ok", verdict.rationale
    mean = rubric.expected(got.tokens[0], scale) if got.tokens else None
    if mean is None:
        return None, "unparsed", "no probabilities of the scale's points at the score"
    return round(mean, 6), "ok", verdict.rationale


def _dollars(inputs: int, outputs: int, judge: JudgeModel) -> float:
    """By the prices of params.yaml."""
    return (inputs * judge.usd_per_million_input + outputs * judge.usd_per_million_output) / 1e6


def _expected_tokens(missing: Sequence[Item], items: Sequence[Item], params: Params, cache: Cache) -> tuple[int, int, str]:
    """Input and output tokens that the missing answers will need, and what this is based on.

    Cached answers of this judge tell tokens a character and an answer. With none: a token a character, which is at
    least what Japanese takes, and the longest answers allowed.
    """
    length = sum(openai.characters(item.request) for item in missing)
    known = [(openai.characters(item.request), value) for item in items if (value := cache.get(item.key))]
    known = [(size, v["input_tokens"], v["output_tokens"] or 0) for size, v in known if v["input_tokens"] is not None]
    if not known:
        return length, len(missing) * params.judge.max_tokens, "at most: a token a character, answers of full length"
    sizes, inputs, outputs = (sum(column) for column in zip(*known, strict=True))
    return round(length * inputs / sizes), round(len(missing) * outputs / len(known)), "as the cached answers"


def _refuse_cost(
    missing: Sequence[Item], items: Sequence[Item], name: str, judge: JudgeModel, params: Params, cache: Cache
) -> None:
    limit = params.judge.max_cost_usd
    inputs, outputs, source = _expected_tokens(missing, items, params, cache)
    cost = _dollars(inputs, outputs, judge)
    if limit is not None and cost > limit:
        raise UserError(
            f"judge {name}: {len(missing)} questions would cost about {cost:.4f} USD ({source}), more than judge.max_cost_usd = "
            f"{limit:g}; nothing was sent. Raise it, or lower judge.samples, judge.criteria, judge.max_tokens or the models"
        )
