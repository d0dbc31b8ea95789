"""README.md does what it says: every command in it, in its order, on a small finished project."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import BIN, ROOT, change_params, environment

README = (ROOT / "README.md").read_text("utf-8")
PROGRAMS = ("make", "dvc", "snakemake", "emplifai", "cp", ".", "SNAKEMAKE_PROFILE=slurm")
OTHER_BLOCKS = ("validate ─ split", "dialogue_id,situation_id", "params.yaml    every setting")

#: What is run in a command's place, and where the command itself is tested.
INSTEAD = {
    "make test": "make --dry-run test",  # it is what runs this test
    "make ui": "make --dry-run ui",  # test_mlflow_ui.py
    "make rate": "make --dry-run rate",  # test_rating_page.py
    "dvc exp run -S judge.temperature=0.7": "dvc exp run -S correlate.confidence=0.8",  # a minute less
    "snakemake --profile slurm all": "snakemake --profile slurm --dry-run all",  # test_slurm.py
    "SNAKEMAKE_PROFILE=slurm dvc repro": "SNAKEMAKE_PROFILE=slurm dvc repro --dry",  # test_slurm.py
}
#: Commands in running text, and the tests that run them.
ELSEWHERE = {
    "emplifai --help": "test_contract.py",
    "dvc pull": "test_workflow.py",
    "emplifai sync": "test_workflow.py",
    "emplifai correlate": "test_correlate.py",
    "emplifai track": "test_track.py",
    "emplifai prefetch": "test_generate.py",
    "make demo": "test_readme.py",
    "make test": "test_readme.py",
}


def blocks() -> list[list[str]]:
    """Indented blocks, without their indent."""
    found = re.findall(r"(?:^    .*\n)(?:(?:^    .*\n|\n)*^    .*\n)?", README, re.M)
    return [[line[4:] for line in block.splitlines() if line.strip()] for block in found]


def commands() -> list[str]:
    """Every line of every block that is no other block, without its comment."""
    lines = [line for block in blocks() if not block[0].startswith(OTHER_BLOCKS) for line in block]
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def test_every_line_of_a_block_is_a_command():
    assert len(commands()) > 25
    strange = [line for line in commands() if line.split()[0] not in PROGRAMS]
    assert strange == []
    assert set(INSTEAD) <= set(commands())


def test_commands_in_running_text_are_tested_elsewhere():
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^    .*$", "", README, flags=re.M))
    said = {text for text in inline if text.split()[0] in PROGRAMS and len(text.split()) > 1}
    assert said - set(commands())
    for text in said - set(commands()):
        start = " ".join(text.split()[:2])
        words = [w for w in start.split() if w not in ("emplifai", "dvc", "make")]
        assert words[0] in (ROOT / "tests" / ELSEWHERE[start]).read_text("utf-8"), text


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert "docs/report.png" in links
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_the_presets_are_whole():
    from emplifai import params

    for preset in (ROOT / "presets").glob("*.yaml"):
        params.load(preset)


def test_the_faq_quotes_what_is_really_said():
    """Words between backticks at the head of an answer stand in our code, but for those of Snakemake and DVC."""
    code = " ".join(p.read_text("utf-8") for p in (ROOT / "workflow/emplifai").rglob("*.py"))
    code = re.sub(r'"\s+f?"', "", code) + (ROOT / "Snakefile").read_text()
    heads = re.findall(r"^\*\*(.+?)\*\*", (ROOT / "docs/faq.md").read_text("utf-8"), re.M)
    quoted = {text for head in heads for text in re.findall(r"`([^`]+)`", head)}
    ours = {q for q in quoted if not q.startswith(("error: ", "LockException", "dvc", "git", "snakemake", "Nothing"))}
    assert len(ours) >= 6
    assert [q for q in sorted(ours) if q not in code] == []


@pytest.fixture
def clone(finished, tmp_path) -> Path:
    """The finished project as a clone with its installation: what a reader has after `make demo`."""
    project = tmp_path / "project"
    shutil.copytree(finished, project, symlinks=True)
    for name in ("README.md", "Makefile", "pyproject.toml", "constraints.txt", "CITATION.cff", "presets", "docs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, project / name)
    shutil.copy(ROOT / "data/example.csv", project / "data/example.csv")
    installed = project / ".venv"
    (installed / "bin").mkdir(parents=True)
    for path in BIN.iterdir():
        if path.name not in (".demo", ".dev"):
            (installed / "bin" / path.name).symlink_to(path)
    (installed / "lib").symlink_to(Path(sys.prefix) / "lib")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", installed / "pyvenv.cfg")
    for mark in (".demo", ".dev"):
        (installed / "bin" / mark).touch()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "add", "-A"], cwd=project, check=True)
    subprocess.run([*git, "commit", "-qm", "first"], cwd=project, check=True)
    return project


def type_in(project: Path, command: str, timeout: float = 900) -> str:
    """What a command prints, typed into a shell in the project's folder."""
    env = environment(GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@example.org", EMPLIFAI_MODELS=str(project / ".cache/models"))
    env |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org", "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(["bash", "-ec", command], cwd=project, env=env, capture_output=True, text=True, timeout=timeout)
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{command}\n{said}"
    return said


@pytest.mark.slow
def test_every_command_in_order(clone):
    said: dict[str, str] = {}
    for command in commands():
        if command == "dvc repro":
            change_params(clone, correlate__confidence=0.9)
        if command == "snakemake --cores 2 all" and command in said:
            change_params(clone, data__path="my.csv", split__test=0.3)
        before = (clone / "params.yaml").read_text("utf-8")
        said[command] = type_in(clone, INSTEAD.get(command, command))
        if command.startswith("cp presets/"):
            (clone / "params.yaml").write_text(before, "utf-8")  # whose models are here
    assert "report" in said["make demo"] and "finetune:" not in said["make demo"]  # nothing was left to do
    assert "correlate.confidence" in said["dvc params diff"] and "0.9" in said["dvc params diff"]
    assert "plots" in said["dvc plots show"] and "correlate.confidence" in said["dvc exp show --only-changed"]
    assert "tuned.held_out_loss" in type_in(clone, "dvc metrics show")
    assert json.loads((clone / "results/validate/metrics.json").read_text())["dialogues"] == 10  # their own data
    assert "tuned version 1" in said["emplifai track --register"]
    assert (clone / "snakemake-report.html").stat().st_size > 100_000 and (clone / "checked/dialogues.jsonl").exists()


def test_the_examples_of_every_help_are_commands():
    from emplifai import cli

    for command, examples in cli.EXAMPLES.items():
        for example in examples:
            assert cli.parser().parse_args([command, *shlex.split(example, comments=True)]).command == command
