"""An LLM on an OpenAI-compatible server as judge: each criterion asked apart or all together, and replies compared in pairs."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from emplifai import labels, pairwise, rated
from emplifai.backends import asking, openai, rubric, verdicts
from emplifai.backends.openai import Answer, Request
from emplifai.cache import Cache
from emplifai.params import JudgeModel, Params
from emplifai.paths import Paths
from emplifai.records import Comparison, Judgement, Pair, Question, digest, sha256


class Work(NamedTuple):
    """What a judge is asked: texts to be rated, some of them again after judge.audit.second_rubric, and pairs to be compared."""

    questions: Sequence[Question]
    reworded: Sequence[Question] = ()
    pairs: Sequence[Pair] = ()


class Item(NamedTuple):
    """One answer to be asked for, with a score on each criterion."""

    question: Question
    criteria: tuple[str, ...]
    sample: int
    request: Request
    key: str  # of the answer in the cache

    @property
    def scores(self) -> tuple[str, ...]:
        """Where in the answer the scores stand."""
        return ("score",) if len(self.criteria) == 1 else self.criteria


class Duel(NamedTuple):
    """One choice between two replies to be asked for."""

    pair: Pair
    request: Request
    key: str
    scores: tuple[str, ...] = ()


def answer(
    work: Work, name: str, params: Params, paths: Paths, told: dict[str, Any] | None = None
) -> Iterator[Judgement | Comparison]:
    """A Judgement for each question, criterion and sample, then for each that is reworded, then a Comparison for each pair.

    All in the order asked.
    Answers go to .cache/judge/NAME as they arrive; failures of the transport do not, so the next run asks those again.
    told: gets the number of answers and tries, and percentiles of their latency. Raises UserError before the first byte
    when texts must not be sent there or it would cost too much, and when no request can succeed.
    """
    judge = params.judges[name]
    endpoint = openai.endpoint(f"judges.{name}", judge, params.data)
    method = judge.method or params.judge.method
    criteria = [*(judge.criteria or params.judge.criteria), *(params.judge.pairwise.criteria if work.pairs else [])]
    for wording in (params.judge.rubric, *([params.second_rubric] if work.reworded else [])):
        rubric.check(wording, criteria, params.judge.scale, method)
    items, duels = _all_items(work, judge, params), list(_duels(work.pairs, judge, params))
    cache = Cache(paths.cache / "judge" / name)
    try:
        asks = [*items, *(duel for duel in duels if duel.key)]
        found = asking.ask(asks, endpoint, name, judge, params, cache)
        if told is not None:
            told |= asking.latency([found[key] for key in dict.fromkeys(ask.key for ask in asks)])
        for item in items:
            yield from _judgements(item, found[item.key], name, judge, params.judge.scale, method)
        for duel in duels:
            yield _comparison(duel, found[duel.key] if duel.key else None, name, judge)
    finally:
        cache.close()


def plan(work: Work, name: str, params: Params, paths: Paths) -> str:
    """What `answer` would ask, in words."""
    judge = params.judges[name]
    duels = [duel for duel in _duels(work.pairs, judge, params) if duel.key]
    asks = [*_all_items(work, judge, params), *duels]
    return asking.plan(asks, name, judge, params, Cache(paths.cache / "judge" / name))


def asked(questions: Sequence[Question], name: str, params: Params, paths: Paths) -> Iterator[tuple[Item, float | None]]:
    """Each question as `answer` puts it, and the seconds that its answer took; None for one that is not in the cache."""
    cache = Cache(paths.cache / "judge" / name)
    items = _items(questions, params.judge.rubric, params.judges[name], params)
    return ((item, (cache.get(item.key) or {}).get("seconds")) for item in items)


def _all_items(work: Work, judge: JudgeModel, params: Params) -> list[Item]:
    settings = params.judge
    second = params.second_rubric or ""
    return [*_items(work.questions, settings.rubric, judge, params), *_items(work.reworded, second, judge, params)]


def _items(questions: Sequence[Question], wording: str, judge: JudgeModel, params: Params) -> Iterator[Item]:
    known, settings = labels.load(params.data.labels), params.judge
    criteria = judge.criteria or settings.criteria
    groups = [tuple(criteria)] if settings.together and len(criteria) > 1 else [(criterion,) for criterion in criteria]
    for question in questions:
        for group in groups:
            talk = _talk(question, group, wording, known, settings.scale)
            for sample in range(judge.samples or settings.samples):
                request = _request(talk, sample, group, judge, params)
                yield Item(question, group, sample, request, digest([judge.model, judge.revision, request]))


def _talk(question: Question, criteria: tuple[str, ...], wording: str, known: dict[str, labels.Label], scale: tuple[int, int]):
    if len(criteria) == 1:
        return rubric.messages(question, criteria[0], wording, known, scale)
    return rubric.together(question, criteria, wording, known, scale)


def _request(talk: list[rubric.Message], sample: int, criteria: tuple[str, ...], judge: JudgeModel, params: Params) -> Request:
    settings = params.judge
    keys = ("score",) if len(criteria) == 1 else criteria
    request = _body(talk, rubric.schema(settings.scale, keys), params) | {"seed": settings.seed + sample}
    if (judge.method or settings.method) == "expected":
        request |= {"logprobs": True, "top_logprobs": 20}
    return request


def _body(talk: list[rubric.Message], form: dict[str, Any], params: Params) -> Request:
    settings = params.judge
    return {
        "messages": talk,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "seed": settings.seed,  # each sample has its own, which makes it a question of its own
        "response_format": form,
    }


def _duels(pairs: Sequence[Pair], judge: JudgeModel, params: Params) -> Iterator[Duel]:
    known = labels.load(params.data.labels) if pairs else {}
    for pair in pairs:
        if _unasked(pair):
            yield Duel(pair, {"messages": []}, "")
            continue
        talk = rubric.comparison(pair, params.judge.rubric, known, params.judge.scale)
        request = _body(talk, rubric.choice_schema(), params)
        yield Duel(pair, request, digest([judge.model, judge.revision, request]))


def _unasked(pair: Pair) -> bool:
    """Equal texts are a tie by themselves, and no choice is made where a reply is empty."""
    return pair.first.text == pair.second.text or not (pair.first.text.strip() and pair.second.text.strip())


def _judgements(
    item: Item, got: Answer, name: str, judge: JudgeModel, scale: tuple[int, int], method: str
) -> Iterator[Judgement]:
    """One for each criterion. Tokens and cost of an answer to several stand at the first of them, so that sums are right."""
    for k, criterion in enumerate(item.criteria):
        score, status, said = _score(got, k, item.scores[k], scale, method)
        yield Judgement(
            judge=name,
            dialogue_id=item.question.dialogue.dialogue_id,
            model=item.question.model,
            criterion=criterion,
            sample=item.sample,
            score=score,
            status=status,
            method=method,
            rationale=said,
            raw=got.text or got.error,
            prompt_sha256=digest(item.request["messages"]),
            text_sha256=sha256(item.question.text),
            input_tokens=None if k else got.input_tokens,
            output_tokens=None if k else got.output_tokens,
            cost_usd=None if k else asking.cost(got, judge),
        )


def _score(got: Answer, place: int, key: str, scale: tuple[int, int], method: str) -> tuple[float | None, str, str]:
    """Score, status and rationale (or why there is no score)."""
    if got.status != "ok":
        return None, got.status, got.error
    verdict = verdicts.read(got.text, scale, key)
    if verdict.score is None:
        return None, "unparsed", verdict.reason
    if method == "stated":
        return verdict.score, "ok", verdict.rationale
    mean = verdicts.expected(got.tokens[place], scale) if got.tokens else None
    if mean is None:
        return None, "unparsed", "no probabilities of the scale's points at the score"
    return round(mean, 6), "ok", verdict.rationale


def _comparison(duel: Duel, got: Answer | None, name: str, judge: JudgeModel) -> Comparison:
    first, second, criterion = duel.pair
    choice, status, said, raw = _choice(duel.pair, got)
    return Comparison(
        judge=name,
        dialogue_id=first.dialogue.dialogue_id,
        criterion=criterion,
        first=first.model,
        second=second.model,
        choice=choice,
        status=status,
        rationale=said,
        raw=raw,
        prompt_sha256=digest(duel.request["messages"]) if got else "",
        first_sha256=sha256(first.text),
        second_sha256=sha256(second.text),
        input_tokens=got.input_tokens if got else None,
        output_tokens=got.output_tokens if got else None,
        cost_usd=asking.cost(got, judge) if got else None,
    )


def _choice(pair: Pair, got: Answer | None) -> tuple[str | None, str, str, str]:
    """Choice, status, rationale (or why there is no choice) and what the judge said."""
    if got is None:
        empty = not (pair.first.text.strip() and pair.second.text.strip())
        return (None, "refused", "", rated.EMPTY) if empty else ("tie", "ok", "", pairwise.SAME)
    if got.status != "ok":
        return None, got.status, got.error, got.text or got.error
    choice, said, reason = verdicts.choice(got.text)
    return choice, "ok" if choice else "unparsed", said or reason, got.text
