"""Stage bertscore: equal to bert-score where that works, right where it breaks, cached, beside its nulls."""

import csv
import json
import math
import random
import shutil

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from conftest import change_params, corpus
from emplifai.backends.encoder import recommended_layer
from emplifai.errors import UserError
from emplifai.params import EMBEDDED, Bertscore
from emplifai.records import sha256
from emplifai.statistics import surface


def texts(count=40):
    """Pairs of real texts of unlike lengths: a reply and the reference of another dialogue."""
    rows = [d for lines in corpus().values() for row in lines for d in row["dialogues"]]
    random.Random(0).shuffle(rows)
    return [(patient, reply) for patient, reply in rows[:count]]


def scored(pairs, model, cache, layer=1, **settings):
    from emplifai.backends.pairs import PairScorer

    scorer = PairScorer(Bertscore(model=str(model), layer=layer, **settings), cache)
    found = scorer.scores(pairs)
    return [found[pair] for pair in pairs], scorer


def peer(pairs, model, layer):
    """bert-score's own P, R, F1."""
    import bert_score

    parts = bert_score.score([c for c, _ in pairs], [r for _, r in pairs], model_type=str(model), num_layers=layer, device="cpu")
    return [[float(x) for x in row] for row in zip(*parts, strict=True)]


def for_peer(folder, out, **tokens):
    """A copy whose tokenizer calls <bos> and <eos> what bert-score leaves out of account."""
    from transformers import AutoTokenizer

    shutil.copytree(folder, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    tokenizer.add_special_tokens({"cls_token": "<bos>", "sep_token": "<eos>"})
    for key, value in tokens.items():
        setattr(tokenizer, key, value)
    tokenizer.save_pretrained(out)
    return out


def tokenizer_with(folder, out, opens, **settings):
    """A copy of the tiny model whose tokenizer writes `opens` (such as "<bos> $A") around a text."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    shutil.copytree(folder, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=opens, special_tokens=[("<bos>", 1), ("<eos>", 2)])
    for key, value in settings.items():
        setattr(tokenizer, key, value)
    tokenizer.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """A BERT of 3 layers with random weights and a WordPiece tokenizer: CLS and SEP, no BOS; its folder's name holds "t5"."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("not5") / "bert"
    folder.mkdir()
    letters = sorted({c for pair in texts(200) for text in pair for c in text})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    words = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=False)
    BertTokenizer(tokenizer_object=words._tokenizer, vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return folder


def agree(ours, theirs):
    assert all(abs(a - b) < 1e-5 for mine, other in zip(ours, theirs, strict=True) for a, b in zip(mine[:3], other, strict=True))


def test_greedy_matching_by_hand():
    import torch

    from emplifai.statistics.matching import greedy

    candidate = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    reference = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    ones = [torch.ones(2)], [torch.ones(3)]
    (p, r, f), *_ = greedy([candidate], ones[0], [reference], ones[1], [(0, 0)])
    # candidate: best 1.0 and 0.8; reference: best 0.8, 1.0 and -0.6 (negative: padding must not lift it to 0)
    assert (p, r) == pytest.approx((0.9, (0.8 + 1.0 - 0.6) / 3))
    assert f == pytest.approx(2 * 0.9 * 0.4 / 1.3)
    (p, r, _), *_ = greedy([candidate], [torch.tensor([0.0, 1.0])], [reference], ones[1], [(0, 0)])
    assert (p, r) == pytest.approx((0.8, 0.4))  # a token without weight can still be matched
    assert greedy([candidate], [torch.zeros(2)], [reference], ones[1], [(0, 0)]) == [None]


@pytest.mark.parametrize("layer", [1, 2])
def test_equals_bert_score_on_a_decoder(tiny_model, tmp_path, layer):
    copy = for_peer(tokenizer_with(tiny_model, tmp_path / "bos", "<bos> $A"), tmp_path / "peer")
    agree(scored(texts(), tmp_path / "bos", tmp_path / "cache", layer)[0], peer(texts(), copy, layer))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_of_the_tokenizer_does_not_matter(tiny_model, tmp_path, side):
    copy = tokenizer_with(tiny_model, tmp_path / side, "<bos> $A", padding_side=side)
    agree(scored(texts(), copy, tmp_path / "cache")[0], peer(texts(), for_peer(copy, tmp_path / "peer"), 1))


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_equals_bert_score_on_bert_and_truncates_alike(tiny_bert, tmp_path, layer):
    pairs = texts()
    ours, _ = scored(pairs, tiny_bert, tmp_path / "cache", layer)  # a folder whose name makes bert-score load a T5
    agree(ours, peer(pairs, shutil.copytree(tiny_bert, tmp_path / "peer"), layer))
    assert 0 < sum(s.truncated for s in ours) < len(ours)


def test_what_breaks_bert_score(tiny_model, tmp_path):
    bos = tokenizer_with(tiny_model, tmp_path / "bos-t5", "<bos> $A", model_max_length=10**30)
    pairs = [("喜", "喜"), ("", "喜び"), (" \n", "喜び"), ("<eos>", "喜び"), ("喜び", "喜び")]
    same, empty, blank, nothing, whole = scored(pairs, bos, tmp_path / "cache")[0]
    assert same[:3] == whole[:3] == (1, 1, 1), "a one-token text is a text"
    assert empty == blank == (None, None, None, False)
    assert nothing[:3] == (None, None, None), "only a special token: nothing to score"
    with_bos, _ = scored([("あ", "び")], bos, tmp_path / "cache")
    assert with_bos[0].f1 < 0.999, "BOS has no weight of its own"
    long = scored([("あ" * 3000, "び")], bos, tmp_path / "cache")[0][0]
    assert long.truncated and long.f1 is not None, "the model's own limit holds where the tokenizer has none"


def test_scores_do_not_depend_on_company_or_cache(tiny_model, tmp_path):
    pairs = texts()
    whole, first = scored(pairs, tiny_model, tmp_path / "a")
    alone = [scored([pair], tiny_model, tmp_path / "b")[0][0] for pair in pairs[:5]]
    assert alone == whole[:5]
    other_batches = scored(pairs[::-1], tiny_model, tmp_path / "c", batch_tokens=100)[0][::-1]
    assert all(a[:3] == pytest.approx(b[:3], abs=2e-6) for a, b in zip(other_batches, whole, strict=True))
    again, second = scored(pairs, tiny_model, tmp_path / "a")
    assert again == whole and first.encoded_tokens > 0 and second.encoded_tokens == second.scored_pairs == 0


def test_new_replies_do_not_encode_the_references_again(tiny_model, tmp_path):
    pairs = texts()
    _, first = scored(pairs, tiny_model, tmp_path)
    changed = [(f"{c}。", r) for c, r in pairs]
    kept, second = scored(changed, tiny_model, tmp_path)
    assert kept == scored(changed, tiny_model, tmp_path / "other")[0]
    assert second.encoded_tokens == sum(len(c) for c, _ in changed) < first.encoded_tokens
    for shard in (tmp_path / "bertscore/references").rglob("*.safetensors"):
        shard.write_bytes(b"half a file")
    newer = [(f"{c}！", r) for c, r in pairs]
    assert scored(newer, tiny_model, tmp_path)[0] == scored(newer, tiny_model, tmp_path / "other")[0]


def test_another_layer_dtype_or_model_is_another_score(tiny_model, tmp_path):
    pairs = texts(5)
    one, first = scored(pairs, tiny_model, tmp_path)
    two, second = scored(pairs, tiny_model, tmp_path, layer=2)
    half, third = scored(pairs, tiny_model, tmp_path, dtype="bfloat16")
    assert one != two and one != half and all(abs(a.f1 - b.f1) < 0.02 for a, b in zip(one, half, strict=True))
    assert len({first.hash, second.hash, third.hash}) == 3
    assert "_L1_no-idf_version=0.3.13(hug_trans=" in first.hash and first.fingerprint[:12] in first.hash


def test_classification_against_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score

    from emplifai.statistics.classification import accuracy, confusion, macro_f1, top

    draw = random.Random(0)
    gold = draw.choices("abcd", k=60)
    named = [g if draw.random() < 0.5 else draw.choice(["a", "b", "none"]) for g in gold]
    assert accuracy(gold, named) == pytest.approx(accuracy_score(gold, named))
    assert macro_f1(gold, named) == pytest.approx(f1_score(gold, named, labels=list("abcd"), average="macro", zero_division=0))
    assert top(["a", "b"], [["c", "d", "a"], ["a", "c", "d", "b"]]) == 0.5
    assert confusion(["a", "a", "b"], ["a", "none", "a"]) == {("a", "a"): 1, ("a", "none"): 1, ("b", "a"): 1}


def fabricate(folder, empty_for=None):
    """results/split and results/generate as the stages before write them: real texts, no model."""
    import yaml

    labels = yaml.safe_load((folder / "data/labels.yaml").read_text())
    parts = {"train": [], "test": []}
    for emotion, rows in corpus().items():
        for k, row in enumerate(rows):
            for j, (patient, reply) in enumerate(row["dialogues"], 1):
                turns = [{"role": "patient", "text": patient}, {"role": "supporter", "text": reply}]
                name = f"{row['situation_id']}-{j}"
                head = {"dialogue_id": name, "situation_id": row["situation_id"], "emotion": emotion, "condition": None}
                line = {**head, "situation": row["situation"], "turns": turns, "extra": {}}
                parts["test" if k == 0 else "train"].append(line)
    for part, rows in parts.items():
        write_lines(folder / f"results/split/{part}.jsonl", rows)
    test = parts["test"]
    says = {
        "reference": lambda k: test[k]["turns"][1]["text"],
        "parrot": lambda k: test[k]["turns"][0]["text"],
        "shuffled": lambda k: test[(k + 4) % len(test)]["turns"][1]["text"],
    }
    for model, say in says.items():
        replies, emotions = [], []
        for k, row in enumerate(test):
            text = "" if (model, k) == empty_for else say(k)
            label = row["emotion"] if model == "reference" else test[0]["emotion"]
            ranking = {"ranking": [test[0]["emotion"], *labels], "label": label}
            replies.append(reply_line(row, model, "reply", text))
            emotions.append(reply_line(row, model, "emotion", labels[label]["ja"]) | ranking)
        write_lines(folder / f"results/generate/{model}/reply.jsonl", replies)
        write_lines(folder / f"results/generate/{model}/emotion.jsonl", emotions)
    change_params(folder, models={name: {"backend": name} for name in says})


def reply_line(row, model, task, text):
    hashes = {"prompt_sha256": "", "settings_sha256": "", "text_sha256": sha256(text)}
    head = {"dialogue_id": row["dialogue_id"], "model": model, "task": task, "sample": 0, "text": text}
    return {**head, "finish_reason": "stop" if text else "empty", **hashes}


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))


def test_stage(project, run):
    fabricate(project, empty_for=("shuffled", 3))
    done = run("emplifai", "bertscore")
    out = project / "results/bertscore"
    metrics = json.loads((out / "metrics.json").read_text())
    assert all(isinstance(v, int | float) and math.isfinite(v) for v in metrics.values())
    assert metrics["reference.reply.f1"] == metrics["reference.reply.rescaled"] == 1
    assert metrics["reference.emotion.accuracy"] == metrics["reference.emotion.macro_f1"] == 1
    assert metrics["shuffled.emotion.accuracy"] == 0.25, "one label for all of four emotions"
    assert metrics["shuffled.emotion.f1"] == metrics["shuffled.emotion.null"], "a constant answer is its own null"
    assert metrics["shuffled.emotion.rescaled"] == 0
    assert metrics["shuffled.reply.null"] < 1, "the system shuffled may not meet its own text in the null"
    for key in ("parrot.reply", "shuffled.reply"):
        assert metrics[f"{key}.f1_low"] <= metrics[f"{key}.f1"] <= metrics[f"{key}.f1_high"]
        null, f1 = metrics[f"{key}.null"], metrics[f"{key}.f1"]
        assert metrics[f"{key}.rescaled"] == pytest.approx((f1 - null) / (1 - null), abs=2e-6)
    assert metrics["parrot_is_highest"] == int(metrics["parrot.reply.f1"] >= metrics["shuffled.reply.f1"])
    assert 0.25 < metrics["emotion_baseline.tfidf_dialogue.accuracy"] <= 1

    lines = [json.loads(line) for line in (out / "shuffled.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 16 and sum(r["status"] == "empty" for r in lines) == 1
    assert all((r["f1"] is None) == (r["status"] == "empty") for r in lines)
    scores = [r["f1"] or 0 for r in lines if r["task"] == "reply"]
    assert metrics["shuffled.reply.empty_share"] == 1 / 16
    assert metrics["shuffled.reply.f1_empty_as_zero"] == pytest.approx(sum(scores) / 16, abs=1e-6)
    assert metrics["shuffled.reply.f1"] == pytest.approx(sum(scores) / 15, abs=1e-6)

    rows = list(csv.DictReader((out / "emotions.csv").open()))
    assert {(r["model"], r["task"]) for r in rows} == {
        (m, t) for m in ("reference", "parrot", "shuffled") for t in ("reply", "emotion")
    }
    cells = list(csv.DictReader((out / "confusion.csv").open()))
    assert sum(int(r["count"]) for r in cells if r["model"] == "parrot") == 16
    assert "parrot" in done.stdout and json.loads((out / "run.json").read_text())["hash"].count("_L1_no-idf_") == 1

    before = {p.name: p.read_bytes() for p in out.iterdir() if p.name != "run.json"}
    run("emplifai", "bertscore")
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.name != "run.json"} == before
    assert json.loads((out / "run.json").read_text())["encoded_tokens"] == 0
    shutil.rmtree(project / ".cache/bertscore")
    change_params(project, models={"shuffled": {"backend": "shuffled"}, "reference": {"backend": "reference"}})
    run("emplifai", "bertscore")
    assert (out / "shuffled.jsonl").read_bytes() == before["shuffled.jsonl"], "fresh, in other company: the same bytes"
    assert not (out / "parrot.jsonl").exists(), "scores of a model taken out of the params"


def test_layers_that_bert_score_recommends():
    for name in ("google-bert/bert-base-multilingual-cased", "bert-base-multilingual-cased"):
        assert recommended_layer(name) == 9
    with pytest.raises(UserError, match="recommends none for 'nobody/nothing'"):
        recommended_layer("nobody/nothing")


def test_faults_of_the_user(project, run, tiny_model):
    fabricate(project)
    good = str(tiny_model)
    change_params(project, bertscore__layer=3)
    done = run("emplifai", "bertscore", ok=False)
    assert done.returncode == 2 and "has 2 layers, found 3" in done.stderr and "Traceback" not in done.stderr
    change_params(project, bertscore__layer=None)
    done = run("emplifai", "bertscore", ok=False)
    assert done.returncode == 2 and "bertscore.layer" in done.stderr and "Traceback" not in done.stderr
    broken = shutil.copytree(tiny_model, project / "broken")
    (broken / "model.safetensors").write_bytes(b"half a file")
    change_params(project, bertscore__layer=1, bertscore__model="./broken")
    done = run("emplifai", "bertscore", ok=False)
    assert done.returncode == 2 and "cannot be loaded" in done.stderr and "Traceback" not in done.stderr
    change_params(project, bertscore__model=good)
    path = project / "results/generate/parrot/reply.jsonl"
    path.write_text(path.read_text().replace('"dialogue_id": "', '"dialogue_id": "no-', 1))
    done = run("emplifai", "bertscore", ok=False)
    assert done.returncode == 2 and "reply.jsonl:1" in done.stderr and "no test dialogue" in done.stderr


def test_partners_are_of_another_situation_whatever_the_order():
    from emplifai.records import Dialogue
    from emplifai.statistics.shuffled import partners

    turns = [{"role": "patient", "text": "a"}, {"role": "supporter", "text": "b"}]
    rows = [Dialogue(f"s{s}-{k}", f"s{s}", "joy", None, "", turns) for s in range(5) for k in range(3)]
    found = partners(rows, 1)
    assert all(d.situation_id != r.situation_id for r in rows for d in found[r.dialogue_id])
    assert len({found[r.dialogue_id][0].dialogue_id for r in rows}) == len(rows), "each reference is met once"
    assert partners(rows[::-1], 1) == found
    assert any(partners(rows, 2)[k] != v for k, v in found.items())
    assert partners(rows[:3], 1) == {}


@pytest.mark.slow
@pytest.mark.real
def test_equals_bert_score_on_the_embedded_model(tmp_path):
    """Layer 11 in fp32; the peer gets an fp32 copy whose <bos> has no weight, since it scores in the stored dtype."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from emplifai import models

    folder = models.locate(EMBEDDED)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"cls_token": "<bos>", "sep_token": "<eos>"})
    tokenizer.save_pretrained(tmp_path / "peer")
    AutoModel.from_pretrained(folder, dtype=torch.float32).save_pretrained(tmp_path / "peer")
    pairs = texts(24)
    agree(scored(pairs, EMBEDDED, tmp_path / "cache", 11)[0], peer(pairs, tmp_path / "peer", 11))


def test_the_surface_baseline_learns_from_a_sample_whatever_the_order_of_rows(monkeypatch):
    monkeypatch.setattr(surface, "LEARNT", 20)
    labels = ["worry", "joy"] * 30
    texts = [f"{'怖い夜' if label == 'worry' else '嬉しい朝'}{k}" for k, label in enumerate(labels)]
    asked = ["とても怖い", "とても嬉しい"]
    learnt = []
    fit = TfidfVectorizer.fit_transform
    monkeypatch.setattr(TfidfVectorizer, "fit_transform", lambda self, given, y=None: learnt.append(given) or fit(self, given, y))
    found = [surface.rank_labels(texts[::step], labels[::step], asked) for step in (1, -1)]
    assert found[0] == found[1] == [["worry", "joy"], ["joy", "worry"]]
    assert learnt[0] == learnt[1] and 20 <= len(learnt[0]) <= 22
