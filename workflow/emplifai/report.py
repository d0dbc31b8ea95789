"""Stage report: one self-contained page that says what was found and how sure one can be. All its numbers come from files."""

import base64
import hashlib
import re
import shutil
from collections import defaultdict
from importlib.resources import files
from typing import Any

from emplifai import STAGES, prompts, provenance
from emplifai.evidence import Evidence
from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.records import atomic, write_json
from emplifai.tables import Table

PAGE = 20  # samples that stand in the page; a script adds the others as they are asked for


def run(params: Params, paths: Paths) -> None:
    """Write index.html, figures/, tables/, metrics.json (the headline) and run.json.

    Raises UserError where a result is missing.
    """
    from emplifai import costs, evidence, findings, sections, verdict

    with provenance.record(paths.record("report"), "report", params.section("report"), inputs(params, paths)) as record:
        found = evidence.read(params, paths)
        for folder in (paths.figures, paths.page_tables):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        parts = sections.all_sections(found, paths.figures)
        claims = verdict.claims(found)
        samples = sample_rows(found)
        context = {
            "rated": any(s["gap"] for s in samples),
            "claims": claims,
            "sections": parts,
            "samples": samples,
            "costs": costs.tables(found),
            "places": places(found),
            "commit": commits(found)[0] if commits(found) else "COMMIT",
        }
        page = render(found, context)
        with atomic(paths.page) as file:
            file.write(page)
        for table in (block for part in parts for block in part.blocks if isinstance(block, Table)):
            with atomic(paths.page_tables / f"{table.name}.csv") as file:
                file.write(table.csv())
        write_json(paths.metrics("report"), findings.headline(found))
        record["font"] = _font()


def inputs(params: Params, paths: Paths) -> list:
    """What the page is made from."""
    tables = [paths.table(name) for name in ("items", "agreement", "comparisons", "bias", "systems")]
    return [*(paths.metrics(s) for s in STAGES[:-1]), *tables, *(paths.replies(m) for m in params.models)]


def _font() -> str:
    from emplifai.figures import japanese_font

    return japanese_font() or "none with Japanese glyphs: figures name emotions in English"


def sample_rows(run: Evidence) -> list[dict[str, Any]]:
    """Test dialogues with what each system answered: as many as report.samples, in an order that nobody chose."""
    from emplifai import findings

    gap = findings.disagreement(run)
    chosen = findings.in_hash_order(run.test.values())[: run.params.report.samples]
    systems = [m for m in run.params.models if run.params.models[m].backend != "reference"]
    beside = numbers(run, systems)
    return [
        {
            "dialogue": d,
            "label": run.labels.get(d.emotion),
            "gap": gap(d.dialogue_id),
            "replies": [_reply(run, m, d.dialogue_id, beside) for m in systems if d.dialogue_id in run.replies[m]],
        }
        for d in chosen
    ]


def numbers(run: Evidence, systems: list[str]) -> dict[tuple[str, str], list[str]]:
    """What stands beside a reply, by system and dialogue: BERTScore, each judge (with its mark), raters."""
    from emplifai import findings
    from emplifai.blocks import SIMULATED, heads, judge_name

    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    named = {judge: heads(run, judge) for judge in run.params.judges}
    for model in systems:
        for i, value in findings.f1(run, model).items():
            found[model, i].append(f"BERTScore F1 {value:.3f}")
        for judge in run.params.judges:
            parts = defaultdict(list)
            for criterion, head in named[judge].items():
                for i, value in findings.judged(run, judge, model, criterion).items():
                    parts[i].append(f"{head} {value:.1f}")
            for i, texts in parts.items():
                found[model, i].append(f"{judge_name(run, judge)}: {', '.join(texts)}")
    who = SIMULATED if run.simulated else "raters"
    for (i, model), means in findings.human_means(run).items():
        found[model, i].append(f"{who}: " + ", ".join(f"{criterion} {value:.1f}" for criterion, value in means))
    return found


def _reply(run: Evidence, model: str, dialogue_id: str, beside: dict[tuple[str, str], list[str]]) -> dict[str, Any]:
    """One system's answer with the numbers that stand beside it."""
    from emplifai.blocks import kind

    reply, emotion = run.replies[model][dialogue_id], run.emotions[model].get(dialogue_id)
    cut = ["cut at the length limit"] if reply.finish_reason == "length" else []
    return {
        "model": model,
        "kind": kind(run, model),
        "text": reply.text,
        "emotion": emotion.label if emotion and emotion.label else None,
        "numbers": cut + beside[model, dialogue_id],
    }


def places(run: Evidence) -> list[tuple[str, str]]:
    """What a reader needs to make it again."""
    from emplifai.records import digest

    first = run.records[0] if run.records else {}
    dirty = any((r.get("git") or {}).get("dirty") for r in run.records)
    packages = {name: version for r in run.records for name, version in (r.get("packages") or {}).items()}
    hosts = {r.get("host") for r in run.records} - {None}
    return [
        ("git commit", (", ".join(commits(run)) or "none") + (" (with changes that were not committed)" if dirty else "")),
        ("parameters, SHA-256", digest(run.params.model_dump(mode="json", by_alias=True))),
        ("data", str(run.params.data.path)),
        ("emplifai", str(first.get("emplifai", ""))),
        ("Python", str(first.get("python", ""))),
        ("packages", ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))),
        ("machines", f"{len(hosts)}"),
    ]


def commits(run: Evidence) -> list[str]:
    """The commits of the jobs."""
    return sorted({(r.get("git") or {}).get("commit") for r in run.records} - {None})


def render(run: Evidence, context: dict[str, Any]) -> str:
    """The page as one text. Every value is escaped; the one script is allowed by its digest, and no address may be loaded."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from emplifai.blocks import SIMULATED

    environment = Environment(
        loader=PackageLoader("emplifai", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    environment.filters |= {"words": words, "data_uri": data_uri}
    environment.tests |= {"table": lambda b: hasattr(b, "rows"), "figure": lambda b: hasattr(b, "svg")}
    script = files("emplifai.templates").joinpath("report.js").read_text("utf-8").strip()
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.jinja").render(
        title=run.params.report.title,
        who=SIMULATED if run.simulated else "raters",
        models=run.params.models,
        emotions=sorted({d.emotion for d in run.test.values()}),
        labels=run.labels,
        language=prompts.load("talk", run.params.data.prompt)["language"],
        test_size=len(run.test),
        page_size=PAGE,
        script=script,
        style=files("emplifai.templates").joinpath("report.css").read_text("utf-8").strip(),
        script_sha256=allowed,
        **context,
    )


def words(text: str) -> str:
    """A text as it may stand in a page: control characters and lone surrogates become visible signs; the rest stays."""
    text = text.encode("utf-8", "replace").decode()
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", text.replace("\r\n", "\n"))


def data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
