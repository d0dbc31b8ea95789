"""Stage judge: one judge rates the replies of all models, and first the contrast set, of which the order is known."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from emplifai import contrast, provenance, rated, records
from emplifai.errors import UserError
from emplifai.params import JudgeModel, Params
from emplifai.paths import Paths
from emplifai.records import Dialogue, Judgement, Question, Reply, sha256
from emplifai.shards import Shard

KINDS = ("shuffled", "truncated", "parrot")  # made from the data, beside the contrasts that people wrote


def run(params: Params, paths: Paths, name: str, shard: Shard | None = None) -> None:
    """Write JUDGE/MODEL.jsonl, contrast.jsonl, metrics.json and run.json. A shard only fills a likelihood judge's cache.

    Raises UserError when more judgements failed than judge.max_failed_share; what was answered stays in the cache.
    """
    test, asked, contrasts = _all(params, paths)
    if shard:
        from emplifai.backends.likelihood import fill

        fill(
            _unique([*contrasts, *(q for rows in asked.values() for q in rows)]), name, params.judges[name], params, paths, shard
        )
        return
    inputs = [*(paths.replies(model) for model in params.models), *(paths.part(p) for p in ("train", "dev", "test"))]
    used = {"judge": params.section("judge"), "judge_model": params.section("judges")[name]}
    with provenance.record(paths.record("judge", name), "judge", used, inputs, name) as extra:
        found = _judge([*contrasts, *(q for rows in asked.values() for q in rows)], name, params, paths)
        told = {model: [j for q in rows for j in found(q)] for model, rows in asked.items()}
        shown = [j for q in contrasts for j in found(q)]
        every = [*shown, *(j for rows in told.values() for j in rows)]
        _refuse_too_many_failures(every, name, params)
        _remove_others(params, paths, name)
        for model, rows in told.items():
            records.write_jsonl(paths.judgements(name, model), rows)
        records.write_jsonl(paths.contrasts(name), shown)
        numbers = rated.metrics(told, shown, test, params) | _beside(told, shown, contrasts, name, params, paths)
        records.write_json(paths.metrics("judge", name), numbers)
        extra["judgements"] = len(every)


def _beside(told, shown, contrasts: Sequence[Question], name: str, params: Params, paths: Paths) -> dict[str, float | int | None]:
    """What to read a judge's AUCs beside: what the surface tells; for the proxy, faults that it was never shown."""
    from emplifai import baselines

    numbers = baselines.aucs(contrasts, list(records.read_jsonl(paths.part("train"), Dialogue)))
    if params.judges[name].backend == "likelihood":
        from emplifai.backends import unseen

        numbers |= unseen.metrics(told, shown, name, params.judges[name], params, paths)
    return numbers


def dry_run(params: Params, paths: Paths, name: str) -> None:
    """Say on stdout what `run` would ask and what that may cost; nothing is sent or written."""
    _, asked, contrasts = _all(params, paths)
    unique = _unique([*contrasts, *(q for rows in asked.values() for q in rows)])
    judge = params.judges[name]
    if judge.backend == "openai":
        from emplifai.backends.openai_judge import plan

        print(plan(unique, name, judge, params, paths))
    else:
        print(f"judge {name}: {len(unique)} texts for the proxy on this machine; nothing is sent, nothing costs")


def audit(params: Params, paths: Paths, name: str) -> None:
    """Show the judge probes of which the right order is known; write the table to results/audit/JUDGE/."""
    from emplifai import judge_audit

    judge_audit.run(params, paths, name, _backend(params.judges[name].backend))


def _all(params: Params, paths: Paths) -> tuple[list[Dialogue], dict[str, list[Question]], list[Question]]:
    """The test dialogues, the replies to be judged by model, and the contrast set."""
    test = list(records.read_jsonl(paths.part("test"), Dialogue))
    return test, {model: list(_questions(test, model, paths)) for model in params.models}, _contrasts(test)


def _questions(test: Sequence[Dialogue], model: str, paths: Paths) -> Iterator[Question]:
    """A model's replies in the order of its file. Raises UserError for one to a dialogue that is not in test."""
    known = {d.dialogue_id: d for d in test}
    for number, reply in enumerate(records.read_jsonl(paths.replies(model), Reply), 1):
        if reply.dialogue_id not in known:
            where = f"{paths.replies(model)}:{number}"
            raise UserError(f"{where}: no test dialogue {reply.dialogue_id!r}; run generate again on this split")
        yield Question(known[reply.dialogue_id], model, reply.text)


def _contrasts(test: Sequence[Dialogue]) -> list[Question]:
    """The reference of each dialogue, and worse replies to one dialogue of each situation."""
    worse = [q for q in contrast.questions(contrast.leading(test), test, KINDS) if q.model != "reference"]
    return [*(Question(d, "reference", d.reference) for d in test), *worse]


def _judge(questions: Sequence[Question], name: str, params: Params, paths: Paths):
    """Ask each text to a dialogue once; return what gives a question's judgements, in order of criterion and sample."""
    judge = params.judges[name]
    found: dict[tuple[str, str], list[Judgement]] = defaultdict(list)
    for judgement in _backend(judge.backend)(_unique(questions), name, judge, params, paths):
        found[judgement.dialogue_id, judgement.text_sha256].append(judgement)

    def rows(question: Question) -> list[Judgement]:
        if not question.text.strip():
            return [
                _empty(question, name, criterion, judge, params.judge.method)
                for criterion in judge.criteria or params.judge.criteria
            ]
        return [replace(j, model=question.model) for j in found[_place(question)]]

    return rows


def _backend(backend: str):
    if backend == "openai":
        from emplifai.backends.openai_judge import answer
    else:
        from emplifai.backends.likelihood import answer
    return answer


def _unique(questions: Iterable[Question]) -> list[Question]:
    """Each text to a dialogue once, whoever wrote it; no empty ones."""
    return list({_place(q): q for q in questions if q.text.strip()}.values())


def _place(question: Question) -> tuple[str, str]:
    return question.dialogue.dialogue_id, sha256(question.text)


def _empty(question: Question, name: str, criterion: str, judge: JudgeModel, method: str) -> Judgement:
    """An empty reply is not asked: any number for it would be made up. It is counted as refused."""
    return Judgement(
        judge=name,
        dialogue_id=question.dialogue.dialogue_id,
        model=question.model,
        criterion=criterion,
        sample=0,
        score=None,
        status="refused",
        method="proxy" if judge.backend == "likelihood" else judge.method or method,
        rationale="",
        raw=rated.EMPTY,
        prompt_sha256="",
        text_sha256=sha256(question.text),
    )


def _refuse_too_many_failures(judgements: Iterable[Judgement], name: str, params: Params) -> None:
    # A proxy refuses what it cannot measure, by rule; that is no sign of a judge that went wrong.
    asked = [j for j in rated.asked(judgements) if j.method != "proxy"]
    failed = [j for j in asked if j.status != "ok"]
    share = len(failed) / max(1, len(asked))
    if share <= params.judge.max_failed_share:
        return
    counts = {status: sum(j.status == status for j in failed) for status in ("unparsed", "refused", "error")}
    first = next(j for j in failed if j.status == max(counts, key=counts.get))
    raise UserError(
        f"judge {name}: {len(failed)} of {len(asked)} judgements failed ({share:.0%}), more than judge.max_failed_share = "
        f"{params.judge.max_failed_share:g}: {', '.join(f'{n} {status}' for status, n in counts.items() if n)}. For example "
        f"{first.dialogue_id}, {first.criterion}: {_example(first)}. All answers are kept in the cache. "
        f"Mend the judge (judges.{name}, judge.max_tokens, judge.rubric), or raise judge.max_failed_share"
    )


def _example(judgement: Judgement) -> str:
    text = " ".join(judgement.raw.split())
    return f"{judgement.rationale or judgement.status}: {text[:120]!r}" if judgement.status != "error" else text[:200]


def _remove_others(params: Params, paths: Paths, name: str) -> None:
    """Judgements of models that are no longer in params.yaml."""
    kept = {paths.contrasts(name), *(paths.judgements(name, model) for model in params.models)}
    for path in paths.metrics("judge", name).parent.glob("*.jsonl"):
        if path not in kept:
            path.unlink()
