"""A rating project: a folder with what raters may see (design.json), and what only the study knows (key.json).

The server never opens key.json: which model wrote a reply is not in its memory, so no page can give it away.
"""

import hashlib
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emplifai import labels, prompts, yaml_file
from emplifai.errors import UserError
from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.records import Dialogue, Question, Reply, atomic, file_sha256, read_json, read_jsonl, sha256, write_json
from emplifai.study import sampling
from emplifai.study.blinding import Key, checks
from emplifai.study.sampling import Entry
from emplifai.study.store import Store

SHIPPED = "ja-v1"  # the wording that says which texts a page has


@dataclass(frozen=True)
class Plan:
    """What `emplifai ratings new` was asked for."""

    raters: int
    items: int
    per_item: int | None  # None: all raters
    repeat: float
    seed: int
    models: list[str] | None  # None: all of params.yaml


@dataclass(frozen=True)
class Project:
    """A project as the server reads it. items: what is shown; orders: item ids by rater, in the order shown."""

    folder: Path
    scale: tuple[int, int]
    criteria: list[str]
    items: dict[str, dict[str, Any]]
    orders: dict[str, list[str]]
    texts: dict[str, Any]

    @property
    def database(self) -> Path:
        return self.folder / "ratings.sqlite"

    @property
    def points(self) -> range:
        return range(self.scale[0], self.scale[1] + 1)

    @property
    def consent_sha256(self) -> str:
        """Digest of the words that a rater agrees to."""
        return sha256(self.texts["consent"]["text"])


def create(folder: Path, params: Params, paths: Paths, plan: Plan) -> dict[str, str]:
    """Draw a project into `folder`; returns each rater's token, which is stored nowhere but as a digest."""
    _check(folder, params, plan)
    candidates, empty = questions(params, paths, plan.models or list(params.models))
    drawn = sampling.draw(candidates, plan.items, plan.seed)
    width = max(2, len(str(plan.raters)))
    raters = [f"r{k:0{width}}" for k in range(1, plan.raters + 1)]
    given = sampling.assign([q.model for q in drawn], raters, plan.per_item or plan.raters, plan.seed)
    orders = {rater: sampling.order(numbers, rater, plan.repeat, plan.seed) for rater, numbers in given.items()}
    texts = _texts(params)
    key = Key(drawn, checks(candidates, drawn, orders, texts["check"], params.judge.scale, plan.seed))
    with _private():
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, params, plan, key, orders, texts, empty)
        tokens = {rater: secrets.token_urlsafe(24) for rater in raters}
        with Store(folder / "ratings.sqlite") as store:
            store.create(params.judge.scale, file_sha256(folder / "design.json"))
            store.add_raters({rater: token_sha256(token) for rater, token in tokens.items()})
    return tokens


def load(folder: Path) -> Project:
    """Read a project, checking that its files belong together. Raises UserError."""
    if not (folder / "design.json").exists():
        raise UserError(f"{folder}: no rating project (no design.json); `emplifai ratings new` draws one")
    design = read_json(folder / "design.json")
    _, texts = yaml_file.read(folder / "instructions.yaml", "; `emplifai ratings new` writes one")
    if isinstance(texts, dict):  # a project drawn before the page's own words stood in it
        texts = {key: prompts.load("rating", SHIPPED)[key] for key in ("language", "page")} | texts
    scale = tuple(design["scale"])
    if faults := _faults(texts, design["criteria"], scale):
        raise UserError(*(f"{folder}/instructions.yaml: {fault}" for fault in faults))
    if not (folder / "ratings.sqlite").exists():
        raise UserError(f"{folder}/ratings.sqlite: no such file; it holds the raters' links and ratings")
    with Store(folder / "ratings.sqlite") as store:
        if store.design_sha256() != file_sha256(folder / "design.json"):
            raise UserError(f"{folder}/design.json: changed since the project was drawn; put the drawn file back")
    return Project(folder, scale, design["criteria"], design["items"], design["orders"], texts)


def newest(folder: Path) -> Path:
    """The project drawn last. Raises UserError when there is none."""
    found = sorted(folder.glob("*/design.json"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise UserError(f"{folder}: no rating project; draw one: emplifai ratings new --raters 5 --items 40")
    return found[-1].parent


def free_name(folder: Path) -> Path:
    """data/ratings/study-01, or the first number that is free."""
    return next(path for k in range(1, 1000) if not (path := folder / f"study-{k:02}").exists())


def token_sha256(token: str) -> str:
    """What is stored of a token. It is random and long: a plain hash cannot be reversed."""
    return hashlib.sha256(token.encode()).hexdigest()


def questions(params: Params, paths: Paths, models: Iterable[str]) -> tuple[list[Question], int]:
    """Every reply (first sample) of the models to the test dialogues, and how many were empty: nobody can rate those."""
    dialogues = {d.dialogue_id: d for d in read_jsonl(paths.part("test"), Dialogue)}
    replies = [r for m in models for r in read_jsonl(paths.replies(m), Reply) if r.sample == 0 and r.dialogue_id in dialogues]
    rated = [Question(dialogues[r.dialogue_id], r.model, r.text) for r in replies if r.text.strip()]
    return rated, len(replies) - len(rated)


def _check(folder: Path, params: Params, plan: Plan) -> None:
    strange = [m for m in plan.models or [] if m not in params.models]
    faults = [f"--models: no model {m!r}; there are: {', '.join(params.models)}" for m in strange]
    if plan.per_item is not None and not 1 <= plan.per_item <= plan.raters:
        faults.append(f"--per-item {plan.per_item}: allowed: 1 to {plan.raters}, the number of raters")
    if not 0 <= plan.repeat <= 1 / 3:
        faults.append(f"--repeat {plan.repeat:g}: allowed: 0 to 0.33, since copies and first showings lie a third apart")
    if plan.raters < 1 or plan.items < 1:
        faults.append("--raters and --items: at least 1")
    if folder.exists() and any(folder.iterdir()):
        faults.append(f"{folder}: there is something already; give another --out, a project is never drawn twice")
    faults += [f"params.yaml: {fault}" for fault in _faults(_texts(params), params.judge.criteria, params.judge.scale)]
    if faults:
        raise UserError(*faults)


def _texts(params: Params) -> dict[str, Any]:
    """The shipped texts in the study's language, with the criteria of its rubric: raters and judges read the same anchors."""
    language = prompts.load("talk", params.data.prompt)["language"]
    shipped = f"{language}-v1"
    texts = prompts.load("rating", params.data.prompt if params.data.prompt in prompts.names("rating") else shipped)
    rubric = prompts.load("judge", params.judge.rubric)
    rubric = rubric if rubric["language"] == language else prompts.load("judge", shipped)
    return texts | {"criteria": rubric["criteria"]}


def _faults(texts: Any, criteria: Sequence[str], scale: Sequence[int]) -> list[str]:
    """What instructions lack: a text, or an anchor of a point of the scale."""
    shipped = prompts.load("rating", SHIPPED)
    wanted = [(k, *rest) for k, part in shipped.items() for rest in ([(n,) for n in part] if isinstance(part, dict) else [()])]
    wanted += [("criteria", c, k) for c in criteria for k in ("name", "definition")]
    wanted += [("criteria", c, "anchors", point) for c in criteria for point in range(scale[0], scale[1] + 1)]
    faults = [f"no text {'.'.join(map(str, path))}" for path in wanted if not _at(texts, path)]
    return faults + ([f"scale {list(scale)}: keys 0 to 9 choose the score"] if scale[0] < 0 or scale[1] > 9 else [])


def _at(value: Any, path: Sequence[Any]) -> bool:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return isinstance(value, str) and bool(value.strip())


@contextmanager
def _private():
    """Files made here are for their owner only."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _write(folder, params: Params, plan: Plan, key: Key, orders: dict[str, list[Entry]], texts, empty: int) -> None:
    import yaml

    entries = sorted({entry for order in orders.values() for entry in order})
    emotions = labels.load(params.data.labels)
    design = {
        "drawn_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": plan.seed,
        "scale": list(params.judge.scale),
        "criteria": params.judge.criteria,
        "items": {key.id(e): _item(*key.shown(e), emotions, texts["language"]) for e in sorted(entries, key=key.id)},
        "orders": {rater: [key.id(e) for e in order] for rater, order in orders.items()},
    }
    write_json(folder / "design.json", design)
    drawn = {name: dict(sorted(Counter(of(q) for q in key.drawn).items())) for name, of in _MARGINS.items()}
    rows = {key.id(e): key.row(e) for e in sorted(entries, key=key.id)}
    write_json(folder / "key.json", {"secret": key.secret, "drawn": drawn, "left_out_empty": empty, "items": rows})
    with atomic(folder / "instructions.yaml") as file:
        chosen = texts | {"criteria": {c: texts["criteria"][c] for c in params.judge.criteria}}
        yaml.safe_dump(chosen, file, allow_unicode=True, sort_keys=False, width=10_000)


_MARGINS = {"emotion": lambda q: q.dialogue.emotion, "model": lambda q: q.model}


def _item(dialogue: Dialogue, text: str, emotions: dict[str, labels.Label], language: str) -> dict[str, Any]:
    """What a rater may know: no id of a dialogue, no name of a model."""
    label = emotions.get(dialogue.emotion)
    return {
        "situation": dialogue.situation,
        "emotion": label.word if label else dialogue.emotion,
        "definition": label.definition(language) if label else "",
        "turns": [{"role": t.role, "text": t.text} for t in dialogue.turns[:-1]],
        "reply": text,
    }
