"""Stage judge: one judge rates the replies of all models, and first the contrast set, of which the order is known."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from emplifai import baselines, contrast, judge_audit, pairwise, provenance, rated, records
from emplifai.errors import UserError
from emplifai.params import JudgeModel, Params
from emplifai.paths import Paths
from emplifai.probes import Probe
from emplifai.records import Comparison, Dialogue, Judgement, Pair, Question, Reply, sha256
from emplifai.shards import Shard

KINDS = ("shuffled", "truncated", "parrot")  # made from the data, beside the contrasts that people wrote


class Asked(NamedTuple):
    """What a judge is asked: replies by model, the contrast set, the audit's probes, and which of two replies is better."""

    test: list[Dialogue]
    replies: dict[str, list[Question]]
    contrasts: list[Question]
    probes: list[Probe]
    pairs: list[Pair]

    @property
    def questions(self) -> list[Question]:
        """Each text to a dialogue once, whoever wrote it; no empty ones."""
        rows = [*self.contrasts, *(q for rows in self.replies.values() for q in rows), *(p.question for p in self.probes)]
        return list({_place(q): q for q in rows if q.text.strip()}.values())


class Found(NamedTuple):
    """What it answered. of: the judgements of a question, in order of criterion and sample.

    reworded: those after the second rubric; again: of a proxy, what two refitted ones say of the probes.
    """

    of: Callable[[Question], list[Judgement]]
    reworded: list[Judgement]
    again: list[Judgement]
    comparisons: list[Comparison]


def run(params: Params, paths: Paths, name: str, shard: Shard | None = None) -> None:
    """Write JUDGE/MODEL.jsonl, contrast.jsonl, audit.csv, audit.jsonl, pairs.jsonl, metrics.json and run.json.

    A shard only fills a likelihood judge's cache. Raises UserError when more judgements failed than judge.max_failed_share,
    or a limit of judge.audit is not kept; what was answered stays in the cache.
    """
    asked = _asked(params, paths, name)
    if shard:
        from emplifai.backends.likelihood import fill

        fill(asked.questions, name, params.judges[name], params, paths, shard)
        return
    inputs = [*(paths.replies(model) for model in params.models), *(paths.part(p) for p in ("train", "dev", "test"))]
    used = {"judge": params.section("judge"), "prompt": params.data.prompt, "judge_model": params.section("judges")[name]}
    with provenance.record(paths.record("judge", name), "judge", used, inputs, name) as extra:
        found = _judge(asked, name, params, paths, extra)
        told = {model: [j for q in rows for j in found.of(q)] for model, rows in asked.replies.items()}
        shown = [j for q in asked.contrasts for j in found.of(q)]
        surface = baselines.Surface(list(records.read_jsonl(paths.part("train"), Dialogue)))
        probed = judge_audit.audit(asked.probes, found, surface, params)
        every = [*shown, *(j for rows in told.values() for j in rows), *probed.judgements, *found.reworded]
        _refuse_too_many_failures(every, "judgements", name, params)
        _refuse_too_many_failures(found.comparisons, "comparisons", name, params)
        numbers = rated.metrics(told, shown, every, found.comparisons, asked.test, params)
        numbers |= pairwise.metrics(found.comparisons, asked.test, params)
        audited = probed.numbers | judge_audit.least_contrasts(numbers)
        numbers |= {f"audit.{key}": value for key, value in audited.items() if probed.numbers}
        numbers |= _beside(told, shown, asked, surface, name, params, paths)
        judge_audit.keep_limits(audited, name, params)
        _remove_others(params, paths, name)
        for model, rows in told.items():
            records.write_jsonl(paths.judgements(name, model), rows)
        records.write_jsonl(paths.contrasts(name), shown)
        records.write_jsonl(paths.pairs(name), found.comparisons)
        judge_audit.write(probed, paths.audit_table(name))
        records.write_json(paths.metrics("judge", name), numbers)
        extra["judgements"] = len(every)


def _beside(
    told, shown, asked: Asked, surface: baselines.Surface, name: str, params: Params, paths: Paths
) -> dict[str, float | int | None]:
    """What to read a judge's AUCs beside: what the surface tells; for the proxy, faults that it was never shown."""
    numbers = baselines.aucs(asked.contrasts, surface) | baselines.above(asked.replies, surface)
    if params.judges[name].backend == "likelihood":
        from emplifai.backends import unseen

        numbers |= unseen.metrics(told, shown, name, params.judges[name], params, paths)
    return numbers


def dry_run(params: Params, paths: Paths, name: str) -> None:
    """Say on stdout what `run` would ask and what that may cost; nothing is sent or written."""
    asked = _asked(params, paths, name)
    if params.judges[name].backend == "openai":
        from emplifai.backends import openai_judge

        work = openai_judge.Work(asked.questions, _reworded(asked, name, params), asked.pairs)
        print(openai_judge.plan(work, name, params, paths))
    else:
        print(f"judge {name}: {len(asked.questions)} texts for the proxy on this machine; nothing is sent, nothing costs")


def audit(params: Params, paths: Paths, name: str) -> None:
    """Show the judge the probes of all test situations; write the table to results/audit/JUDGE/.

    Raises UserError, after writing, when a limit of `judge.audit` is not kept.
    """
    test = list(records.read_jsonl(paths.part("test"), Dialogue))
    asked = Asked(test, {}, [], judge_audit.probes(test, params, None), [])
    found = _judge(asked, name, params, paths, {})
    surface = baselines.Surface(list(records.read_jsonl(paths.part("train"), Dialogue)))
    done = judge_audit.audit(asked.probes, found, surface, params)
    judge_audit.write(done, paths.audit(name) / "audit.csv")
    records.write_json(paths.audit(name) / "metrics.json", done.numbers)
    print(f"{paths.audit(name) / 'audit.csv'}: {judge_audit.sentence(done.numbers)}")
    judge_audit.keep_limits(done.numbers, name, params)


def between(params: Params, paths: Paths) -> dict[str, dict[str, float | int | None]]:
    """What several judges make together; nothing of one alone."""
    if len(params.judges) < 2:
        return {}
    from emplifai import between

    return {"between": between.metrics(params, paths)}


def _asked(params: Params, paths: Paths, name: str) -> Asked:
    """All that a run of the stage asks a judge. A proxy rates texts one by one: it is asked no pairs."""
    test = list(records.read_jsonl(paths.part("test"), Dialogue))
    replies = {model: list(_questions(test, model, paths)) for model in params.models}
    probes = judge_audit.probes(test, params, params.judge.audit.situations)
    pairs = pairwise.pairs(replies, test, params) if params.judges[name].backend == "openai" else []
    return Asked(test, replies, _contrasts(test), probes, pairs)


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


def _judge(asked: Asked, name: str, params: Params, paths: Paths, extra: dict[str, Any]) -> Found:
    """Ask each text to a dialogue once. extra: gets what run.json says of the answers."""
    judge, questions, reworded = params.judges[name], asked.questions, _reworded(asked, name, params)
    if judge.backend == "openai":
        from emplifai.backends import openai_judge

        work = openai_judge.Work(questions, reworded, asked.pairs)
        rows = list(openai_judge.answer(work, name, params, paths, extra))
    else:
        from emplifai.backends import likelihood

        rows = list(likelihood.answer(questions, name, judge, params, paths))
    comparisons = [row for row in rows if isinstance(row, Comparison)]
    judgements = rows[: len(rows) - len(comparisons)]
    each = len(judgements) // max(1, len(questions) + len(reworded))
    places = {_place(q): k * each for k, q in enumerate(questions)}

    def of(question: Question) -> list[Judgement]:
        if not question.text.strip():
            return [_empty(question, name, c, judge, params.judge.method) for c in judge.criteria or params.judge.criteria]
        start = places[_place(question)]
        return [replace(j, model=question.model) for j in judgements[start : start + each]]

    return Found(of, judgements[len(questions) * each :], _again(asked, name, params, paths), comparisons)


def _again(asked: Asked, name: str, params: Params, paths: Paths) -> list[Judgement]:
    """What refitted proxies say of the references and contrasts among the probes."""
    if params.judges[name].backend == "openai" or not asked.probes:
        return []
    from emplifai.backends.likelihood import again

    return list(again(_ordinary(asked), name, params.judges[name], params, paths))


def _reworded(asked: Asked, name: str, params: Params) -> list[Question]:
    """What an LLM is asked under a second wording too."""
    wanted = params.judges[name].backend == "openai" and params.second_rubric
    return _ordinary(asked) if wanted else []


def _ordinary(asked: Asked) -> list[Question]:
    """The references and contrasts among the probes: texts on which a judge's own noise is measured."""
    probes = (p for p in asked.probes if p.name.startswith(("reference", "contrast:")))
    return [p.question for p in probes if p.question.text.strip()]


def _place(question: Question) -> tuple[str, str, str]:
    """What makes a question the same: also the emotion, under which the audit shows a reply a second time."""
    return question.dialogue.dialogue_id, question.dialogue.emotion, sha256(question.text)


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


def _refuse_too_many_failures(rows: Sequence[Judgement | Comparison], what: str, name: str, params: Params) -> None:
    # A proxy refuses what it cannot measure, by rule; that is no sign of a judge that went wrong.
    asked = [row for row in rated.asked(rows) if getattr(row, "method", "") != "proxy"]
    failed = [row for row in asked if row.status != "ok"]
    share = len(failed) / max(1, len(asked))
    if share <= params.judge.max_failed_share:
        return
    counts = {status: sum(row.status == status for row in failed) for status in ("unparsed", "refused", "error")}
    first = next(row for row in failed if row.status == max(counts, key=counts.get))
    raise UserError(
        f"judge {name}: {len(failed)} of {len(asked)} {what} failed ({share:.0%}), more than judge.max_failed_share = "
        f"{params.judge.max_failed_share:g}: {', '.join(f'{n} {status}' for status, n in counts.items() if n)}. For example "
        f"{first.dialogue_id}, {first.criterion}: {_example(first)}. All answers are kept in the cache. "
        f"Mend the judge (judges.{name}, judge.max_tokens, judge.rubric), or raise judge.max_failed_share"
    )


def _example(judgement: Judgement | Comparison) -> str:
    text = " ".join(judgement.raw.split())
    return f"{judgement.rationale or judgement.status}: {text[:120]!r}" if judgement.status != "error" else text[:200]


def _remove_others(params: Params, paths: Paths, name: str) -> None:
    """Judgements of models that are no longer in params.yaml."""
    kept = {paths.contrasts(name), paths.pairs(name), paths.audit_table(name).with_suffix(".jsonl")}
    kept |= {paths.judgements(name, model) for model in params.models}
    for path in paths.metrics("judge", name).parent.glob("*.jsonl"):
        if path not in kept:
            path.unlink()
