"""An LLM on an OpenAI-compatible server as judge: each criterion asked apart, answers kept in the cache as they come."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

from emplifai import labels
from emplifai.backends import openai, rubric
from emplifai.backends.openai import Answer, Request
from emplifai.cache import Cache
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
    """A Judgement for each question, criterion and sample, in this order; method "stated".

    Answers go to .cache/judge/NAME as they arrive; failures of the transport do not, so the next run asks those again.
    Raises UserError before the first byte when texts must not be sent there, and when no request can succeed.
    """
    endpoint = openai.endpoint(f"judges.{name}", judge, params.data)
    wanted = judge.criteria or params.judge.criteria
    rubric.check(params.judge.rubric, wanted, params.judge.scale)
    items = list(_items(questions, judge, params))
    cache = Cache(paths.cache / "judge" / name)
    try:
        failed = _ask([item for item in items if item.key not in cache], endpoint, name, params, cache)
        for item in items:
            got = failed[item.key] if item.key in failed else Answer(**cache.get(item.key))
            yield _judgement(item, got, name, judge, params.judge.scale)
    finally:
        cache.close()


def _items(questions: Sequence[Question], judge: JudgeModel, params: Params) -> Iterator[Item]:
    known = labels.load(params.data.labels)
    settings = params.judge
    for question in questions:
        for criterion in judge.criteria or settings.criteria:
            talk = rubric.messages(question, criterion, settings.rubric, known, settings.scale)
            for sample in range(judge.samples or settings.samples):
                request = _request(talk, sample, params)
                yield Item(question, criterion, sample, request, digest([judge.model, judge.revision, request]))


def _request(talk: list[dict[str, str]], sample: int, params: Params) -> Request:
    settings = params.judge
    return {
        "messages": talk,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "seed": settings.seed + sample,  # makes each sample a question of its own
        "response_format": rubric.schema(settings.scale),
    }


def _ask(items: Sequence[Item], endpoint: openai.Endpoint, name: str, params: Params, cache: Cache) -> dict[str, Answer]:
    """Ask what the cache does not hold; return the failures of the transport by key."""
    settings, failed = params.judge, {}
    # Questions with the same beginning follow each other, so that servers can reuse what they computed for it.
    items = sorted({item.key: item for item in items}.values(), key=lambda item: str(item.request["messages"]))
    with Progress(f"judge {name}", len(items), "answers") as progress:

        def keep(index: int, got: Answer) -> None:
            progress.add()
            if got.status == "error":
                failed[items[index].key] = got
            else:
                cache.put(items[index].key, asdict(got))

        limits = openai.Limits(settings.max_in_flight, settings.timeout, settings.attempts)
        openai.complete([item.request for item in items], endpoint, limits, keep)
    return failed


def _judgement(item: Item, got: Answer, name: str, judge: JudgeModel, scale: tuple[int, int]) -> Judgement:
    verdict = rubric.read(got.text, scale) if got.status == "ok" else rubric.Verdict(None, "", got.error)
    status = got.status if got.status != "ok" or verdict.score is not None else "unparsed"
    return Judgement(
        judge=name,
        dialogue_id=item.question.dialogue.dialogue_id,
        model=item.question.model,
        criterion=item.criterion,
        sample=item.sample,
        score=verdict.score,
        status=status,
        method="stated",
        rationale=verdict.reason or verdict.rationale,
        raw=got.text or got.error,
        prompt_sha256=digest(item.request["messages"]),
        text_sha256=sha256(item.question.text),
        input_tokens=got.input_tokens,
        output_tokens=got.output_tokens,
        cost_usd=_cost(got, judge),
    )


def _cost(got: Answer, judge: JudgeModel) -> float | None:
    """By the prices of params.yaml; None when the server does not say how many tokens it used."""
    if got.input_tokens is None or got.output_tokens is None:
        return None
    return round((got.input_tokens * judge.usd_per_million_input + got.output_tokens * judge.usd_per_million_output) / 1e6, 9)
