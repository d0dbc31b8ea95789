"""The whole workflow as users run it: both engines, on tiny models."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, change_params, write_params

pytestmark = pytest.mark.slow

LATER = {
    "validate": "split finetune generate bertscore judge correlate report",
    "split": "finetune generate bertscore judge correlate report",
    "finetune": "generate bertscore judge correlate report",
    "generate": "bertscore judge correlate report",
    "bertscore": "correlate report",
    "judge": "correlate report",
    "correlate": "report",
    "report": "",
}

# Each value of params.yaml, another value for it, and the first stages that a change of it reruns ("": none).
CHANGES = {
    "data.path": ("data/other", "validate"),
    "data.columns": ({"patient": "utterance"}, "validate"),
    "data.encoding": ("utf-8", "validate"),
    "data.labels": ("data/other.yaml", "validate finetune generate bertscore judge"),
    "data.prompt": ("en-v1", "finetune generate judge"),
    "data.ratings": ("data/other-ratings", "correlate"),
    "data.external_processing": ("allowed", ""),
    "validate.near_duplicate": (0.8, "validate split"),
    "validate.personal_data": ("mask", "validate"),
    "validate.max_reject_share": (0.5, "validate"),
    "split.seed": (7, "split"),
    "split.dev": (0.2, "split"),
    "split.test": (0.2, "split"),
    "generate.temperature": (0.7, "generate"),
    "generate.repetition_penalty": (1.3, "generate"),
    "generate.no_repeat_ngram": (3, "generate"),
    "generate.max_new_tokens": (10, "generate"),
    "generate.batch_tokens": (4096, "generate"),
    "bertscore.model": ("data/other-model", "bertscore"),
    "bertscore.layer": (2, "bertscore"),
    "judge.criteria": (["empathy"], "judge"),
    "judge.scale": ([1, 7], "judge"),
    "judge.temperature": (0.7, "judge"),
    "judge.samples": (2, "judge"),
    "judge.pairwise.criteria": (["empathy"], "judge"),
    "judge.audit.situations": (2, "judge"),
    "correlate.confidence": (0.9, "correlate"),
    "correlate.resamples": (300, "correlate"),
    "report.title": ("another", "report"),
    "models.tuned.model": ("data/other-model", "finetune generate"),
    "models.base.model": ("data/other-model", "generate"),
    "models.base-3shot.shots": (2, "generate"),
    "models.retrieval.backend": ("shuffled", "generate"),
    "judges.proxy.model": ("data/other-model", "judge"),
    "tracking.uri": ("sqlite:///other.db", ""),
    "tracking.experiment": ("other", ""),
}


def leaves(values: dict, at: str = "") -> set[str]:
    found = set()
    for key, value in values.items():
        name = f"{at}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, dict) and value else {name}
    return found


def planned(run) -> tuple[set[str], set[str]]:
    """Stages that a Snakemake run would run now, and the models whose jobs are among them."""
    done = run("snakemake", "-n", "--cores", "2")
    rules = {line.split()[0].removesuffix("_here") for line in done.stdout.splitlines() if line.strip()}
    return rules & set(LATER), set(re.findall(r"wildcards: model=(\S+)", done.stdout))


def changed(run) -> set[str]:
    """Stages of which DVC says that a dependency or parameter changed."""
    return set(json.loads(run("dvc", "status", "--json").stdout))


def closure(stages: str) -> set[str]:
    return {s for first in stages.split() for s in [first, *LATER[first].split()]}


@pytest.fixture
def done(finished, tmp_path):
    """(project, run): a copy of the finished project, files as old as they were."""
    import conftest

    project = tmp_path / "project"
    shutil.copytree(finished, project, symlinks=True)
    return project, conftest.runner(project)


def test_all_stages_wrote_what_they_promise(finished):
    for stage in LATER:
        assert json.loads((finished / f"results/{stage}/metrics.json").read_text()), stage
    for model in ("reference", "retrieval", "shuffled", "parrot", "base", "base-3shot", "tuned"):
        lines = (finished / f"results/generate/{model}/reply.jsonl").read_text().splitlines()
        assert len(lines) == 16, model  # 4 emotions, one test situation each, 4 dialogues
    assert "<html" in (finished / "results/report/index.html").read_text()


def test_one_grep_follows_a_dialogue_through_every_stage(finished, done):
    _, run = done
    test = [json.loads(line) for line in (finished / "results/split/test.jsonl").read_text().splitlines()]
    found = run("grep", "-rl", test[0]["dialogue_id"], "results/").stdout
    for stage in ("validate", "split", "generate", "bertscore", "judge", "correlate", "report"):
        assert f"results/{stage}/" in found, stage


def test_after_a_run_neither_engine_has_anything_to_do(done):
    _, run = done
    assert "Nothing to be done" in run("snakemake", "-n", "--cores", "2").stdout
    assert changed(run) == set()
    assert "Data and pipelines are up to date" in run("dvc", "repro").stdout


def test_table_has_every_parameter():
    shown = yaml.safe_load((ROOT / "params.yaml").read_text())
    models, judges = shown.pop("models"), shown.pop("judges")
    finetune = shown.pop("finetune")
    assert leaves(shown) == {k for k in CHANGES if k.split(".")[0] not in ("models", "judges")}
    assert finetune and {"base", "base-3shot", "tuned"} < set(models) and judges


def test_a_change_reruns_what_depends_on_it_in_both_engines(done):
    project, run = done
    for name in ("data/corpus", "data/ratings"):
        other = {"data/corpus": "data/other", "data/ratings": "data/other-ratings"}[name]
        shutil.copytree(project / name, project / other)
    shutil.copy(project / "data/labels.yaml", project / "data/other.yaml")
    original = yaml.safe_load((project / "params.yaml").read_text())
    finetune = {
        f"finetune.{key}": (value * 2 if key != "target_modules" else ["q_proj"], "finetune")
        for key, value in original["finetune"].items()
    }
    wrong = []
    for key, (value, stages) in {**CHANGES, **finetune}.items():
        change_params(project, **{key.replace(".", "__"): value})
        expected = closure(stages)
        snakemake, models = planned(run)
        if snakemake != expected:
            wrong.append(f"snakemake after {key}: {sorted(snakemake)}, not {sorted(expected)}")
        if key.startswith("models.") and models != {key.split(".")[1]}:
            wrong.append(f"snakemake after {key}: jobs of {sorted(models)}")
        dvc = closure(" ".join(changed(run)))
        if not expected <= dvc or (key.split(".")[0] != "models" and dvc != expected):
            wrong.append(f"dvc after {key}: {sorted(dvc)}, not {sorted(expected)}")
        write_params(project, original)
    assert not wrong, "\n".join(wrong)


def test_change_and_dvc_repro_then_snakemake_has_nothing_to_do(done):
    project, run = done
    before = (project / "results/generate/base/reply.jsonl").stat().st_mtime_ns
    change_params(project, correlate__resamples=300)
    output = run("dvc", "repro").stdout
    assert "'generate' didn't change" in output
    assert (project / "results/generate/base/reply.jsonl").stat().st_mtime_ns == before
    assert "Nothing to be done" in run("snakemake", "-n", "--cores", "2").stdout
    assert changed(run) == set()


def test_a_removed_model_leaves_nothing_behind(done):
    project, run = done
    params = yaml.safe_load((project / "params.yaml").read_text())
    del params["models"]["parrot"]
    write_params(project, params)
    run("snakemake", "--cores", "2", "all")
    assert not list((project / "results").rglob("parrot*"))
    run("dvc", "repro")
    assert changed(run) == set()


def test_data_travels_and_older_results_come_back(done, tmp_path):
    """dvc push, a second clone with dvc pull and sync, git checkout of an older run: nothing is computed again."""
    import conftest

    project, run = done
    run("git", "config", "user.email", "a@example.org")
    run("git", "config", "user.name", "a")
    run("dvc", "add", "data/corpus")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "first")
    remote = tmp_path / "remote"
    run("dvc", "remote", "add", "--default", "store", str(remote))
    run("git", "commit", "-qam", "remote")
    run("dvc", "push")
    first = (project / "results/correlate/agreement.csv").read_bytes()

    run("git", "clone", "-q", str(project), str(tmp_path / "clone"))
    there = conftest.runner(tmp_path / "clone")
    there("dvc", "pull")
    there("emplifai", "sync")
    assert "Nothing to be done" in there("snakemake", "-n", "--cores", "2").stdout
    assert changed(there) == set()

    change_params(project, correlate__confidence=0.8)
    run("snakemake", "--cores", "2", "all")
    run("dvc", "repro")
    run("git", "commit", "-qam", "second")
    assert (project / "results/correlate/agreement.csv").read_bytes() != first
    run("git", "checkout", "-q", "HEAD~1")
    run("emplifai", "sync")
    assert (project / "results/correlate/agreement.csv").read_bytes() == first
    assert "Nothing to be done" in run("snakemake", "-n", "--cores", "2").stdout
    assert changed(run) == set()


def test_sync_refuses_what_dvc_has_not_proved(done):
    project, run = done
    change_params(project, correlate__confidence=0.8)
    done_ = run("emplifai", "sync", ok=False)
    assert done_.returncode == 2
    assert "correlate: changed deps (params.yaml:" in done_.stderr
    assert "nothing was touched" in done_.stderr


def test_an_adapter_downloaded_from_mlflow_is_the_one_that_was_trained(done, tiny_model, tmp_path):
    """The workflow's last step sent it; plain peft loads what comes back."""
    import mlflow
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    project, _ = done
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    (model,) = mlflow.search_logged_models(["1"], output_format="list")
    folder = mlflow.artifacts.download_artifacts(f"models:/{model.model_id}", dst_path=str(tmp_path / "adapter"))
    ids = torch.arange(5, 25)[None]

    def logits(adapter) -> torch.Tensor:
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        with torch.no_grad():
            return (PeftModel.from_pretrained(base, adapter) if adapter else base)(ids).logits

    ours = logits(project / "results/finetune/tuned/adapter")
    assert torch.equal(logits(folder), ours) and not torch.equal(ours, logits(None))
    assert model.tags["adapter_sha256"] and "README.md" in [p.name for p in Path(folder).iterdir()]  # with its card


def test_sync_without_the_data_says_what_brings_it(project, run):
    """The commonest slip after git checkout: DVC's cache lacks the results. Small, by a pipeline of one stage."""
    (project / "dvc.yaml").write_text("stages: {s: {cmd: mkdir -p a && echo 1 > a/x, deps: [params.yaml], outs: [a]}}")
    run("git", "init", "--quiet")
    run("dvc", "repro")
    shutil.rmtree(project / ".dvc/cache")
    shutil.rmtree(project / "a")
    refused = run("emplifai", "sync", ok=False)
    assert refused.returncode == 2 and "Checkout failed" in refused.stderr and "`dvc pull` brings what" in refused.stderr
    unfinished = run("emplifai", "finish", ok=False)
    assert unfinished.returncode == 2 and "index.html: not there yet" in unfinished.stderr


def test_snakemake_report_and_lint(done):
    _, run = done
    run("snakemake", "--lint")
    run("snakemake", "--report", "snakemake-report.html", "all")
