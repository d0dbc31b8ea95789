"""validate and split against the same checks written plainly with pandas, pandera and datasketch.

python benchmarks/validate.py [--dialogues 1000000] [--rounds 1]

Data: the embedded corpus's sentences drawn into new dialogues, four a situation; one of a hundred is a near duplicate of an
earlier dialogue (a character more at the end). Both sides read the JSON lines, normalize, check fields, labels, lengths and
Japanese, find repeated ids and texts, personal data (the peer: three regular expressions) and near duplicates (Jaccard
similarity of character trigrams from 0.9), put whole situations, joined where they share near duplicates, into train, dev and
test, and write the lines. They must accept the same dialogues and join the same situations; sides of the split are drawn
differently, so only their sizes are compared. Time of whole processes' work, starts and imports included.
"""

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path

import corpus
import measure

PLANTED = 100  # one of so many is a near duplicate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dialogues", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        made = make(folder / "data.jsonl", args.dialogues)
        sides = {"emplifai": (ours, made, folder / "ours"), "pandas, pandera, datasketch": (plain, made, folder / "plain")}
        found = measure.rounds(args.rounds, sides)
        one, other = (s[-1].value for s in found.values())
        assert one[:2] == other[:2], (one, other)
        measure.table(f"{args.dialogues} dialogues ({made.stat().st_size / 1e6:.0f} MB)", found)
        print(f"the same {one[0]} dialogues accepted, {one[1]} situations joined; train, dev, test: {one[2]} and {other[2]}")
    finally:
        shutil.rmtree(folder)


def make(path: Path, count: int) -> Path:
    """Dialogues whose turns are three sentences drawn from the corpus, with their number in words of the same corpus."""
    draw = random.Random(0)
    known = corpus.dialogues(1120)
    sentences = [[s + "。" for d in known for s in d.turns[k].text.split("。") if len(s) > 8] for k in (0, 1)]
    letters = sorted({c for some in sentences for s in some for c in s if "\u3041" <= c <= "\u9fff"})
    said: list[list[str]] = []
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            copied = number >= 200 and number % PLANTED == 0
            words = ["".join(draw.choices(letters, k=12)) + "".join(draw.sample(some, 3)) for some in sentences]
            if copied:
                words = [text + "ね" for text in said[number - 200 - (number - 200) % PLANTED + 7]]
            said.append(words)
            situation = number // 4
            emotion = known[situation % len(known)].emotion
            row = {"dialogue_id": f"d{number}", "situation_id": f"s{situation}", "emotion": emotion}
            row |= {"situation": f"{known[situation % len(known)].situation}その{situation}。"}
            file.write(json.dumps(row | dict(zip(("patient", "supporter"), words, strict=True)), ensure_ascii=False) + "\n")
    return path


def ours(data: Path, folder: Path) -> tuple[int, int, list[int]]:
    from emplifai import params as schema
    from emplifai import split, validate
    from emplifai.paths import Paths

    params = schema.defaults()
    params = params.model_copy(update={"data": params.data.model_copy(update={"path": data})})
    paths = Paths(folders={"validate": folder / "validate", "split": folder / "split"})
    validate.run(params, paths)
    split.run(params, paths)
    manifest = json.loads(paths.manifest.read_text("utf-8"))
    metrics = json.loads(paths.metrics("split").read_text("utf-8"))
    sizes = [metrics[f"{part}.dialogues"] for part in ("train", "dev", "test")]
    return sum(sizes), sum(map(len, manifest["joined_situations"])), sizes


def plain(data: Path, folder: Path) -> tuple[int, int, list[int]]:
    import unicodedata

    import pandas as pd
    import pandera.pandas as pa
    import yaml
    from datasketch import MinHash, MinHashLSH

    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.read_json(data, lines=True, dtype=False)
    labels = set(yaml.safe_load(Path("data/labels.yaml").read_text("utf-8")))
    labels = labels if len(labels) > 20 else set(frame.emotion)
    texts = ["situation", "patient", "supporter"]
    for name in texts:
        frame[name] = frame[name].map(lambda text: unicodedata.normalize("NFC", text).strip())
    text = pa.Column(str, [pa.Check.str_length(1, 4000), pa.Check.str_contains("[\u3041-\u30ff]")])
    ids = {
        "dialogue_id": pa.Column(str, unique=True),
        "situation_id": pa.Column(str),
        "emotion": pa.Column(str, pa.Check.isin(labels)),
    }
    pa.DataFrameSchema(ids | dict.fromkeys(texts, text)).validate(frame, lazy=True)
    for pattern in (r"[\w.+-]+@[\w-]+\.[\w.]+", r"0\d{1,4}-\d{1,4}-\d{3,4}", r"\b\d{12}\b"):
        for name in texts:
            frame = frame[~frame[name].str.contains(pattern)]
    frame = frame.drop_duplicates(["patient", "supporter"])
    lsh, grams, root = MinHashLSH(threshold=0.9, num_perm=128, weights=(0.02, 0.98)), {}, {s: s for s in frame.situation_id}

    def leader(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for row in frame.itertuples():
        whole = f"{row.patient}\n{row.supporter}"
        mine = {whole[k : k + 3] for k in range(len(whole) - 2)}
        made = MinHash(num_perm=128)
        made.update_batch([g.encode() for g in mine])
        for number in lsh.query(made):
            if len(mine & grams[number]) / len(mine | grams[number]) >= 0.9:
                first, second = sorted((leader(row.situation_id), leader(frame.situation_id[number])))
                root[second] = first
        lsh.insert(row.Index, made)
        grams[row.Index] = mine
    groups = frame.situation_id.map(leader)
    order = pd.Series(groups.unique()).sample(frac=1, random_state=42)
    place = groups.map(dict(zip(order, [k / len(order) for k in range(len(order))], strict=True)))
    parts = {"train": frame[place >= 0.2], "dev": frame[(place >= 0.1) & (place < 0.2)], "test": frame[place < 0.1]}
    for name, part in parts.items():
        part.to_json(folder / f"{name}.jsonl", orient="records", lines=True, force_ascii=False)
    sizes = pd.Series([leader(s) for s in root]).value_counts()
    return len(frame), int(sizes[sizes > 1].sum()), [len(part) for part in parts.values()]


if __name__ == "__main__":
    main()
