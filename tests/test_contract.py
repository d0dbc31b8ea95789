"""One name per stage everywhere, and both engines plan the same."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from conftest import BIN, ROOT, environment
from emplifai import STAGES, cli, params, paths
from emplifai.errors import UserError
from emplifai.paths import Paths

DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_one_name_per_stage():
    package, rules = ROOT / "workflow/emplifai", ROOT / "workflow/rules"
    assert tuple(DVC) == STAGES
    assert tuple(s for s in cli.HELP if s in STAGES) == STAGES
    for stage in STAGES:
        assert (package / f"{stage}.py").is_file()
        assert re.search(rf"^rule {stage}:", (rules / f"{stage}.smk").read_text(), re.M)
        assert (ROOT / f"tests/test_{stage}.py").is_file()
        assert list(DVC[stage]["outs"][0]) == [f"results/{stage}"]
        assert DVC[stage]["cmd"] == f"workflow/stage.sh {stage}"
        assert stage in params.Params.model_json_schema()["properties"]


@pytest.mark.parametrize("stage", STAGES)
def test_both_engines_watch_the_code_of_each_stage(stage, monkeypatch):
    """An edited module or rule reruns the stages that import it, in both engines."""
    monkeypatch.chdir(ROOT)
    watched = {d for d in DVC[stage]["deps"] if d.startswith("workflow/") and "/prompts" not in d}
    code = {str(f) for f in [*Paths().code(stage), *(Paths().templates if stage == "report" else [])]}
    assert watched == {*code, f"workflow/rules/{stage}.smk"}, "run: python docs/make.py"
    assert f'PATHS.code("{stage}")' in (ROOT / f"workflow/rules/{stage}.smk").read_text()
    assert f"workflow/emplifai/{stage}.py" in code


def test_imports_are_found_as_python_finds_them():
    """paths looks at lines, which is quick; here the whole tree of each module is walked."""
    for source in (ROOT / "workflow/emplifai").rglob("*.py"):
        nodes = [n for n in ast.walk(ast.parse(source.read_text("utf-8"))) if isinstance(n, ast.ImportFrom)]
        ours = [n for n in nodes if (n.module or "").split(".")[0] == "emplifai"]
        names = {name for n in ours for name in (n.module, *(f"{n.module}.{a.name}" for a in n.names))}
        expected = {name.removeprefix("emplifai.") for name in names} - {"emplifai", *paths.CONTRACTS}
        assert paths._imports(source) == sorted(expected), source


def test_no_file_is_named_in_two_ways():
    """Rules ask paths.py; a results/ path written by hand is a second copy."""
    for file in [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]:
        assert "results/" not in re.sub(r"#.*", "", file.read_text()), file


def test_dvc_watches_only_parameters_that_are_written_down():
    """DVC stops at a parameter that params.yaml does not hold."""
    for file in [ROOT / "params.yaml", *(ROOT / "presets").glob("*.yaml")]:
        values = yaml.safe_load(file.read_text())
        for stage in DVC.values():
            for key in stage["params"]:
                section, _, name = key.partition(".")
                assert section in values and (not name or name in values[section]), f"{file}: {key}"


def test_presets_fit_the_schema():
    for preset in (ROOT / "presets").glob("*.yaml"):
        assert params.load(preset).models


def test_pins_agree():
    """Each pin of the conda files is a pin of constraints.txt; the container installs by that file."""
    pins = set(re.findall(r"^([a-z0-9][a-z0-9._-]*==[^ ;\n]+)", (ROOT / "constraints.txt").read_text(), re.M))
    for name in ("light", "gpu"):
        steps = yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())["dependencies"]
        listed = {pin.split(" ;")[0].strip() for pin in steps[-1]["pip"]}
        assert len(listed) > 50
        assert not listed - pins
    named = subprocess.run(["pip", "freeze"], env=environment(), capture_output=True, text=True, check=True).stdout
    installed = {line.split("+")[0].lower().replace("_", "-") for line in named.splitlines() if "==" in line}
    for package in ("torch", "transformers", "mlflow", "snakemake", "dvc", "peft", "bert-score"):
        pin = next(p for p in pins if p.startswith(f"{package}=="))
        assert pin in installed
    assert "--constraint /opt/emplifai/constraints.txt" in (ROOT / "envs/emplifai.def").read_text()


BAD = {
    "finetune: {rnak: 3}": "finetune.rnak: unknown key; did you mean 'rank'?",
    "finetune: {rank: many}": "finetune.rank: Input should be a valid integer",
    "models: {a/b: {backend: parrot}}": "models.a/b: a name may hold letters",
    "models: {a..b: {backend: parrot}}": "models.a..b: a name may hold letters",
    "models: {m: {backend: transformers}}": "models.m: backend transformers needs 'model'",
    "models: {m: {backend: openai, model: x}}": "models.m: backend openai needs 'base_url'",
    "models: {m: {backend: parrot, adapter: finetune}}": "models.m: 'adapter' goes with backend transformers",
    "split: {dev: 0.6, test: 0.6}": "split: dev + test must leave something to train on",
    "judge: {scale: [5, 1]}": "judge: scale must rise",
    "judge: {criteria: [kindness]}": "judge.criteria.0: Input should be 'fluency'",
    "generate: {samples: 3}": "generate: samples above 1 need temperature above 0",
    "finetune: {learning_rate: .inf}": "finetune.learning_rate: Input should be a finite number",
    "finetune:": "finetune: keys with values are wanted, found nothing",
    "finetune: {rank: 3}\nfinetune: {rank: 4}": "params.yaml:3: finetune: this key stands at line 2 already",
    "finetune: {rank: 3, rank: 4}": "params.yaml:2: rank: this key stands at line 2 already",
    "models: [": "not YAML",
}


@pytest.mark.parametrize("text,message", BAD.items())
def test_bad_params_are_named_with_line_and_key(tmp_path, text, message):
    file = tmp_path / "params.yaml"
    file.write_text(text if "models" in text else f"models: {{m: {{backend: parrot}}}}\n{text}\n")
    with pytest.raises(UserError) as caught:
        params.load(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_all_faults_of_params_at_once_and_status_2(tmp_path):
    (tmp_path / "params.yaml").write_text("models: {m: {backend: parrot}}\nfinetune: {rnak: 3, rank: many}\nsplit: {dev: 2}\n")
    done = subprocess.run([BIN / "emplifai", "split"], cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert done.stderr.count("error: params.yaml:") == 3
    assert "params.yaml:3: split.dev" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_params_file(tmp_path):
    done = subprocess.run([BIN / "emplifai", "split"], cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert "params.yaml: no such file" in done.stderr


def test_unknown_model_names_those_that_there_are(run):
    done = run("emplifai", "generate", "--model", "nobody", ok=False)
    assert done.returncode == 2
    assert "no model 'nobody'" in done.stderr and "tuned" in done.stderr


def test_snakemake_says_what_is_wrong_with_params(run, project):
    with (project / "params.yaml").open("a") as file:
        file.write("finetnue: {}\n")
    done = run("snakemake", "-n", ok=False)
    assert done.returncode == 2
    assert "finetnue: unknown key; did you mean 'finetune'?" in done.stderr and "Traceback" not in done.stderr


def test_config_on_the_command_line_is_refused(run):
    done = run("snakemake", "-n", "--config", "split={seed: 1}", ok=False)
    assert done.returncode == 2 and "change values there" in done.stderr


def test_help_is_quick_and_light_stages_import_nothing_heavy():
    code = """
import sys
from emplifai import cli, params, paths, records, sync, gather, prefetch, finish
for stage in ("validate", "split", "correlate", "report", "track", "judge", "generate", "finetune", "bertscore"):
    __import__(f"emplifai.{stage}")
heavy = {"torch", "transformers", "mlflow", "pandas", "peft", "scipy", "sklearn", "matplotlib", "datasketch"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([BIN / "python", "-c", code], check=True, env=environment())
    code = "import sys, emplifai.cli as c; c.parser(); assert 'pydantic' not in sys.modules and 'yaml' not in sys.modules"
    subprocess.run([BIN / "python", "-c", code], check=True, env=environment())
    for command in cli.HELP:
        done = subprocess.run([BIN / "emplifai", command, "--help"], capture_output=True, text=True, check=True)
        assert "usage: emplifai" in done.stdout


def test_profile_slurm_resolves_in_a_clone():
    assert (ROOT / "slurm").is_symlink()
    assert Path(ROOT / "slurm/profile.yaml").is_file()
    profile = yaml.safe_load((ROOT / "slurm/profile.yaml").read_text())
    assert profile["executor"] == "slurm"
    assert profile["slurm-status-command"] == "squeue"


def test_no_rule_has_retries_of_its_own():
    """A rule's retries repeat inside the SLURM job, with the memory of the first attempt."""
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        assert "retries" not in file.read_text()


def test_the_parameter_reference_is_up_to_date():
    import runpy

    page = runpy.run_path(str(ROOT / "docs/make.py"))["page"]()
    assert (ROOT / "docs/params.md").read_text("utf-8") == page, "run: python docs/make.py"


def test_a_full_disk_is_said_and_leaves_no_half_file(run, project, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small]).returncode:
        assert not os.environ.get("EMPLIFAI_REQUIRE_ALL"), "needs root, to mount a small file system"
        pytest.skip("needs root, to mount a small file system")
    try:
        done = run("emplifai", "validate", "--out", small, ok=False)
        left = [f.name for f in small.rglob("*")]
    finally:
        subprocess.run(["umount", small], check=True)
    assert done.returncode == 2
    assert "no space left" in done.stderr and "then give the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [name for name in left if "partial" in name or name == "dialogues.jsonl"]
