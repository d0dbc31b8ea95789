"""A part's work in one job and in five: the same files."""

from pathlib import Path

import pytest
import yaml

from conftest import change_params
from emplifai import bertscore, generate, judge, split, validate
from emplifai.errors import UserError
from emplifai.params import Params, load
from emplifai.paths import Paths
from emplifai.records import read_json
from emplifai.shards import Shard, shard


def test_each_item_has_one_shard():
    for count in (1, 2, 5):
        for key in ("00000000000a", "ffffffffffff", "123456789abc"):
            assert sum(Shard(k, count).owns(key) for k in range(1, count + 1)) == 1
    batches = [[k] for k in range(7)]
    assert sorted(b for k in range(1, 6) for b in Shard(k, 5).of(batches)) == batches
    assert shard("2/5") == Shard(2, 5) and str(Shard(2, 5)) == "2of5"


@pytest.mark.parametrize("text", ["0/5", "6/5", "2", "a/b", "2/", "-1/5"])
def test_what_is_no_shard(text):
    with pytest.raises(UserError, match="want K/N"):
        shard(text)


def files(paths: Paths) -> dict[str, bytes]:
    """All results but run.json, which holds times."""
    return {
        f"{stage}/{f.relative_to(folder)}": f.read_bytes()
        for stage, folder in paths.folders.items()
        for f in folder.rglob("*")
        if f.is_file() and f.name != "run.json"
    }


def lines(paths: Paths) -> list[int]:
    """Lines of each file of the caches: a process writes one."""
    return [len(file.read_bytes().splitlines()) for file in paths.cache.rglob("*.jsonl")]


def written(params: Params, name: str, count: int) -> Paths:
    """Results of generate, bertscore and judge, each in `count` shards and then gathered."""
    paths = Paths(cache=Path(f".cache-{name}"), folders={s: Path(name, s) for s in ("generate", "bertscore", "judge")})
    shards = [Shard(k, count) for k in range(1, count + 1)] if count > 1 else []
    for stage, part in ((generate, ["base"]), (generate, ["reference"]), (bertscore, []), (judge, ["proxy"])):
        for one in shards:
            stage.run(params, paths, *part, shard=one)
        stage.run(params, paths, *part)
    return paths


def test_five_shards_and_one_job_write_the_same(project, monkeypatch):
    base = yaml.safe_load((project / "params.yaml").read_text())["models"]["base"]
    change_params(project, models={"reference": {"backend": "reference"}, "base": base}, generate__batch_tokens=700)
    monkeypatch.chdir(project)
    params = load()
    for stage in (validate, split):
        stage.run(params, Paths())
    one, five = written(params, "one", 1), written(params, "five", 5)
    assert files(one) == files(five) and len(files(one)) > 10
    assert len(lines(one)) == 3 and len(lines(five)) == 15 and min(lines(five)) > 0  # each shard did some of each stage,
    assert sum(lines(one)) == sum(lines(five))  # nothing was done twice,
    assert read_json(five.record("generate", "base"))["fresh"] == 0  # and nothing was left to do
