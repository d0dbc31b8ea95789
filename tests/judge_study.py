"""A small project before its judge stage, and a judge at a server, for the tests of judges."""

from types import SimpleNamespace

import pytest

import conftest
from conftest import change_params
from emplifai import cli, records
from emplifai.records import Dialogue, Judgement, Reply, sha256

SYSTEMS = ("reference", "parrot", "tuned")
CRITERIA = ("fluency", "empathy", "emotion_empathy")


def dialogues(count: int = 6) -> list[Dialogue]:
    """The first two dialogues of `count` situations; the first of each has written contrasts."""
    return [d for d in conftest.dialogues(2, count // 2, written=True) if d.dialogue_id.endswith(("-1", "-2"))]


def reply(dialogue: Dialogue, model: str) -> Reply:
    text = {"reference": dialogue.reference, "parrot": dialogue.patient}.get(model, f"{dialogue.patient[:6]}、よかったですね。")
    return Reply(dialogue.dialogue_id, model, "reply", 0, text, "stop", "", "", sha256(text))


@pytest.fixture
def study(project):
    """A project as it stands before the judge stage: 12 test dialogues of 6 situations, three systems."""
    test = dialogues()
    for part in ("train", "dev", "test"):
        records.write_jsonl(project / f"results/split/{part}.jsonl", test if part == "test" else [])
    for model in SYSTEMS:
        records.write_jsonl(project / f"results/generate/{model}/reply.jsonl", [reply(d, model) for d in test])
    change_params(
        project,
        models={"reference": {"backend": "reference"}, "parrot": {"backend": "parrot"}, "tuned": {"backend": "retrieval"}},
        judge={"attempts": 2, "max_in_flight": 4, "timeout": 10, "audit": {"situations": 0}},
    )
    return project


@pytest.fixture
def call(study, monkeypatch, capsys):
    """call("judge", "--judge", "llm", ok=False): the command line in this process, in the study's folder."""
    monkeypatch.chdir(study)

    def command(*arguments: str, ok: bool = True) -> SimpleNamespace:
        code = cli.main(list(arguments))
        out, err = capsys.readouterr()
        assert (code == 0) == ok, f"{arguments} exited {code}\n{out}\n{err}"
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return command


def judge_at(project, url: str, **entry) -> None:
    change_params(project, judges={"llm": {"backend": "openai", "model": "m", "base_url": url, **entry}})


def tables(project, judge: str = "llm") -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((project / "results/judge" / judge).iterdir()) if p.name != "run.json"}


def judgements(project, model: str) -> list[Judgement]:
    return list(records.read_jsonl(project / f"results/judge/llm/{model}.jsonl", Judgement))
