"""The embedded corpus as dialogues, for benchmarks that need real texts."""

import json
from pathlib import Path

from emplifai.records import Dialogue, Turn


def dialogues(count: int) -> list[Dialogue]:
    """The first `count` dialogues: the first of each situation, then the second, ..."""
    rows = [
        Dialogue(f"{line['situation_id']}-{n}", line["situation_id"], path.stem, None, line["situation"], _turns(*pair))
        for path in sorted(Path("data/corpus").glob("*.jsonl"))
        for line in map(json.loads, path.read_text("utf-8").splitlines())
        for n, pair in enumerate(line["dialogues"], 1)
    ]
    return sorted(rows, key=lambda d: (d.dialogue_id.rpartition("-")[2], d.situation_id.rpartition("-")[2]))[:count]


def _turns(patient: str, supporter: str) -> list[Turn]:
    return [Turn("patient", patient), Turn("supporter", supporter)]
