"""The likelihood proxy: its numbers against plain forward passes, hand calculation and scikit-learn; its guards; its cache."""

import json
import math

import numpy as np
import pytest

import conftest
from conftest import ROOT, TALK, tiny_params
from emplifai import baselines, contrast, params, records
from emplifai.backends import features, likelihood, proxy, unseen, weights
from emplifai.cache import Cache
from emplifai.paths import Paths
from emplifai.records import Dialogue, Question

PARTS = {"train": slice(0, 8), "dev": slice(8, 9), "test": slice(9, 10)}


def dialogues(part: str, emotions: int = 4, written: bool = True) -> list[Dialogue]:
    """Dialogues of the embedded corpus in the form that the split stage writes."""
    numbers = range(1, 11)[PARTS[part]]
    return [d for d in conftest.dialogues(emotions, written=written) if int(d.situation_id.rsplit("-", 1)[1]) in numbers]


@pytest.fixture
def setting(tmp_path, tiny_model, monkeypatch):
    """answer(questions) with the tiny model, in a folder of its own."""
    monkeypatch.chdir(ROOT)
    return prepare(tmp_path, str(tiny_model))


def prepare(folder, model: str, emotions: int = 4, written: bool = True, **judge):
    paths = Paths(results=folder / "results", cache=folder / "cache")
    for part in PARTS:
        records.write_jsonl(paths.part(part), dialogues(part, emotions, written))
    values = tiny_params(model)
    values["judge"] |= judge
    values["judges"]["proxy"] = {"backend": "likelihood", "model": model}
    settings = params.Params.model_validate(values)
    return lambda questions: list(likelihood.answer(questions, "proxy", settings.judges["proxy"], settings, paths))


def question(text: str, model: str = "m", dialogue: Dialogue | None = None) -> Question:
    return Question(dialogue or dialogues("test")[0], model, text)


def reader(tiny_model, folder, layers: tuple[int, ...] = (1,)) -> features.Reader:
    model, tokenizer = weights.load(params.Model(backend="transformers", model=str(tiny_model), dtype="float32"))
    return features.Reader(model, tokenizer, layers, "tiny", Cache(folder))


@pytest.fixture
def capped_model(tiny_model, tmp_path):
    """A model that bends its logits (a soft-cap): its head is more than a matrix."""
    import shutil

    import torch
    from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    folder = tmp_path / "capped"
    shutil.copytree(tiny_model, folder)
    size = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    vocabulary = len(AutoTokenizer.from_pretrained(tiny_model))
    config = Gemma2Config(vocab_size=vocabulary, num_hidden_layers=2, final_logit_softcapping=0.05, pad_token_id=3, **size)
    config.sliding_window = 24
    Gemma2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("plain", [True, False])
def test_log_probability_and_features_equal_a_plain_forward_pass(tiny_model, capped_model, tmp_path, plain):
    import torch

    read = reader(tiny_model if plain else capped_model, tmp_path)
    assert read.plain_head is plain
    contexts = ["状況：朝\n患者：痛い。\n支援者：", "状況：" + "夜も眠れない。" * 6 + "\n支援者："]  # one longer than the window
    passages = [features.Passage(c, t, "\n") for c in contexts for t in ("そうでしたか。", "はい。")]
    found = read.read(passages)
    for passage in passages:
        row = read.encode(passage)
        assert (row.start, row.end) == (len(row.ids) - len(passage.text) - 1, len(row.ids) - 1)
        with torch.no_grad():
            out = read.model(torch.tensor([row.ids]), output_hidden_states=True)
        log_p = out.logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(row.ids[1:])[:, None])[row.start - 1 :, 0]
        assert found[passage].tokens == len(row.ids) - row.start == len(passage.text) + 1
        assert found[passage].log_p == pytest.approx(float(log_p.mean()), abs=1e-5)
        states = out.hidden_states[1][0, row.start : row.end].numpy()
        np.testing.assert_allclose(found[passage].features, states.mean(0), atol=2e-3 * np.abs(states).max())


@pytest.fixture
def deeper_model(tiny_model, tmp_path):
    """The tiny model with four layers."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path / "deeper"
    shutil.copytree(tiny_model, folder)
    config = AutoConfig.from_pretrained(tiny_model, num_hidden_layers=4)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_states_alone_need_no_upper_layers(deeper_model, tmp_path):
    """The same features as of a whole pass, both layers in them, from a pass that ends at the second of them."""
    import torch

    read, reached = reader(deeper_model, tmp_path, (1, 3)), []
    for number, block in enumerate(read.model.model.layers, 1):
        block.register_forward_hook(lambda *_, number=number: reached.append(number))
    whole = features.Passage("患者：痛い。\n支援者：", "そうでしたか。", "\n")
    part = whole._replace(log_p=False)
    found = read.read([part])[part]
    assert set(reached) == {1, 2, 3} and found.log_p is None
    np.testing.assert_array_equal(found.features, read.read([whole])[whole].features)
    assert reached.count(4) == reached.count(3) / 2 > 0
    row = read.encode(whole)
    with torch.no_grad():
        states = read.model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states
    states = np.concatenate([states[layer][0, row.start : row.end].numpy() for layer in (1, 3)], -1)
    np.testing.assert_allclose(found.features, states.mean(0), atol=2e-3 * np.abs(states).max())


def test_a_reading_does_not_depend_on_what_else_is_read(tiny_model, tmp_path):
    passages = [
        features.Passage("患者：あ\n支援者：", t, "\n") for t in ["そう。", "はい、そうですね。", "え" * 40, "ん。" * 30, "か。"]
    ]
    together = reader(tiny_model, tmp_path / "together").read(passages)
    alone = reader(tiny_model, tmp_path / "alone")
    for passage in reversed(passages):
        one = alone.read([passage])[passage]
        assert one.log_p == together[passage].log_p
        np.testing.assert_array_equal(one.features, together[passage].features)


def test_text_longer_than_the_model_is_refused(setting):
    found = setting([question("あ" * 1100 + "。"), question("そうですね。")])
    assert [j.status for j in found] == ["refused"] * 3 + ["ok"] * 3
    assert all("longer" in j.raw and j.score is None for j in found[:3])


def test_features_survive_the_cache_even_where_half_floats_overflow():
    values = np.array([3e5, -1.0, 12.5, 0.0], np.float32)
    back = features.unpack(json.loads(json.dumps(features.pack(features.Reading(3, -1.5, values)))))
    assert (back.tokens, back.log_p) == (3, -1.5)
    np.testing.assert_allclose(back.features, values, rtol=1e-3, atol=0.02)


def test_pmi_is_the_difference_of_the_two_means(setting):
    fluency, _, fits = setting([question("つらかったですね。")])
    raw = json.loads(fits.raw)
    assert raw["pmi"] == pytest.approx(raw["log_p_given"] - raw["log_p"], abs=2e-6)
    assert json.loads(fluency.raw)["log_p"] == raw["log_p"]


def test_pmi_does_not_see_the_context_twice(setting, tiny_model):
    """The blank form has no word of the dialogue in it; the given form has all."""
    texts = likelihood.Texts(params.JudgeModel(backend="likelihood", model=str(tiny_model)), TALK, Cache(ROOT / "nowhere"))
    asked = question("そうですか。")
    given, blank = texts.asked(asked, records.CRITERIA)
    assert asked.dialogue.situation in given.context and asked.dialogue.patient in given.context
    assert blank.context == "状況：\n患者：\n支援者："
    assert (given.text, given.end) == (blank.text, blank.end) == ("そうですか。", "\n")


def test_anchored_score_by_hand():
    known = proxy.anchors(worse=[3, 1, 2, 4], good=[10, 20])
    assert known.score(0, (1, 5)) == 1  # below all
    assert known.score(2.5, (1, 5)) == 1 + 2 * 2 / 4
    assert known.score(5, (1, 5)) == 3  # above all worse, below all good
    assert known.score(15, (1, 5)) == 1 + 2 + 2 * 1 / 2
    assert known.score(99, (1, 5)) == 5
    assert known.score(5, (0, 10)) == 5 and known.score(15, (0, 100)) == 75


def test_head_finds_a_planted_direction():
    rng = np.random.default_rng(0)
    truth = np.eye(6)[2]
    bad = rng.normal(size=(80, 6))
    good = rng.normal(size=(80, 6)) + 3 * truth
    head = proxy.fit_head(good, bad)
    assert np.argmax(head.weights) == 2 and head.weights[2] > 5 * np.abs(np.delete(head.weights, 2)).max()
    assert np.mean([head(g) > head(b) for g, b in zip(good, bad, strict=True)]) > 0.95


def test_head_equals_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(1)
    good, bad = rng.normal(1, 2, size=(30, 4)), rng.normal(size=(30, 4))
    head = proxy.fit_head(good, bad)
    scaler = StandardScaler().fit(np.r_[good, bad])
    d = scaler.transform(good) - scaler.transform(bad)
    peer = LogisticRegression(C=0.01, fit_intercept=False, tol=1e-8).fit(np.r_[d, -d], [1] * 30 + [0] * 30)
    np.testing.assert_allclose(head.weights, peer.coef_[0], atol=1e-4)
    np.testing.assert_allclose(head(good[0]), (scaler.transform(good[:1]) @ peer.coef_[0])[0], atol=1e-3)


def test_overlap_by_hand():
    assert proxy.overlap("あいう", "いうえ") == 0.5
    assert proxy.overlap("あいう", "あいう") == 1
    assert proxy.overlap("あ", "あ") == 0 and proxy.overlap("", "あい") == 0
    assert proxy.overlap_limit([("あい", "うえ")] * 3 + [("あい", "あい")], 1.0) == 1


def test_parrot_is_capped_and_a_cut_reply_and_an_empty_one_have_no_score(setting):
    dialogue = dialogues("test")[0]
    asked = [question(t) for t in (dialogue.patient, "そうで", "  ", "そうだったんですね。")]
    found = {(k, j.criterion): j for k, j in enumerate_by(setting(asked), 3)}
    parrot, cut = found[0, "emotion_empathy"], found[1, "emotion_empathy"]
    assert json.loads(parrot.raw)["capped"] is True and parrot.score <= 2
    assert cut.score is None and cut.status == "refused" and "sentence mark" in json.loads(cut.raw)["reason"]
    assert found[1, "empathy"].status == "ok"
    assert {found[2, c].status for c in records.CRITERIA} == {"refused"}
    assert all("empty" in found[2, c].raw and found[2, c].score is None for c in records.CRITERIA)
    assert json.loads(found[3, "emotion_empathy"].raw)["capped"] is False


def enumerate_by(items, size):
    return [(k // size, item) for k, item in enumerate(items)]


def test_judgements_say_that_they_are_a_proxy(setting):
    asked = question("そうでしたか。")
    found = setting([asked])
    assert [j.criterion for j in found] == list(records.CRITERIA)
    for judgement in found:
        assert (judgement.method, judgement.judge, judgement.model, judgement.status) == ("proxy", "proxy", "m", "ok")
        assert judgement.rationale.startswith("proxy: ") and "not an LLM rating" in judgement.rationale
        assert 1 <= judgement.score <= 5 and math.isfinite(judgement.score)
        assert judgement.text_sha256 == records.sha256("そうでしたか。") and len(judgement.prompt_sha256) == 64
    assert len({j.prompt_sha256 for j in found}) == 3


def test_without_written_contrasts_the_proxy_says_what_it_lacks(tmp_path, tiny_model, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    found = prepare(tmp_path, str(tiny_model), written=False)([question("そうでしたか。")])
    assert [j.status for j in found] == ["ok"] * 3
    assert "no written contrasts" in found[1].rationale and "no written contrasts" not in found[0].rationale
    assert "warning: judge proxy" in capsys.readouterr().err


def test_second_run_computes_nothing_and_says_the_same(setting, monkeypatch):
    calls = []
    forward = features.Reader._forward
    monkeypatch.setattr(features.Reader, "_forward", lambda self, rows: calls.append(len(rows)) or forward(self, rows))
    asked = [question(t) for t in ("そうでしたか。", "お大事に。", "そうでしたか。")]
    first = setting(asked)
    read = sum(calls)
    assert setting(asked) == first and sum(calls) == read
    setting([*asked, question("つらいですね。")])
    assert sum(calls) == read + 2  # the new text, with and without its context


def test_killed_run_resumes_to_the_same_judgements(tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(ROOT)
    asked = [question(t) for t in ("そうでしたか。", "お大事に。", "それはつらかったですね。")]
    undisturbed = prepare(tmp_path / "a", str(tiny_model))(asked)
    broken = prepare(tmp_path / "b", str(tiny_model))
    forward, left = features.Reader._forward, [3]

    def dies(self, rows):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return forward(self, rows)

    monkeypatch.setattr(features.Reader, "_forward", dies)
    with pytest.raises(KeyboardInterrupt):
        broken(asked)
    left[0] = 10**6
    assert broken(asked) == undisturbed


def test_order_of_questions_does_not_matter(setting):
    asked = [question(t) for t in ("そうでしたか。", "お大事に。", "それはつらかったですね。")]
    forwards, backwards = setting(asked), setting(asked[::-1])
    assert sorted(map(records.dumps, forwards)) == sorted(map(records.dumps, backwards))


def test_fit_situations_are_balanced_and_stable():
    train = dialogues("train")
    few = contrast.chosen(train, 8)
    assert sorted(d.emotion for d in few) == sorted([d.emotion for d in contrast.leading(dialogues("test"))] * 2)
    assert [d.dialogue_id for d in contrast.chosen(train[::-1], 8)] == [d.dialogue_id for d in few]
    assert len(contrast.chosen(train, 10**6)) == 32


def test_contrasts_hold_each_fault_once():
    test = dialogues("test")
    rows = contrast.questions(contrast.leading(test), test)
    assert {q.model for q in rows} == {"reference", *contrast.WRITTEN, *contrast.MADE}
    references = {q.dialogue.dialogue_id: q.text for q in rows if q.model == "reference"}
    for q in rows:
        reference = references[q.dialogue.dialogue_id]
        if q.model == "shuffled":
            assert q.text not in references.values()
        if q.model == "truncated":
            assert reference.startswith(q.text) and not contrast.ends(q.text) and len(q.text) > 3
        if q.model == "garbled":
            assert sorted(q.text) == sorted(reference) and q.text != reference
        if q.model == "parrot":
            assert q.text == q.dialogue.patient


@pytest.mark.parametrize("text", ["はい。", "はい！", "本当？ ", "「はい」", "ね♪", "ね😊", "Yes."])
def test_sentence_ends(text):
    assert contrast.ends(text)


@pytest.mark.parametrize("text", ["はい", "はい、", "", " ", "それは"])
def test_no_sentence_ends(text):
    assert not contrast.ends(text)


def test_dev_is_needed(tmp_path, tiny_model, monkeypatch):
    from emplifai.errors import UserError

    monkeypatch.chdir(ROOT)
    ask = prepare(tmp_path, str(tiny_model))
    records.write_jsonl(tmp_path / "results/split/dev.jsonl", [])
    with pytest.raises(UserError, match=r"split\.dev must be above 0"):
        ask([question("はい。")])


def test_metrics_beside_the_scores(tmp_path, tiny_model, monkeypatch):
    """PMI without its guard by hand; the head on a kind that it never saw is not the head that saw it."""
    monkeypatch.chdir(ROOT)
    ask = prepare(tmp_path, str(tiny_model))
    values = tiny_params(str(tiny_model))
    settings = params.Params.model_validate(values)
    test = dialogues("test")
    people = ask([Question(d, "reference", d.reference) for d in test])
    told = {"parrot": ask([Question(d, "parrot", d.patient) for d in test]), "cut": ask([question("そうで", "cut")])}
    paths = Paths(results=tmp_path / "results", cache=tmp_path / "cache")
    found = unseen.metrics(told, people, "proxy", settings.judges["proxy"], settings, paths)
    pmi = [
        {j.dialogue_id: json.loads(j.raw)["pmi"] for j in rows if j.criterion == "emotion_empathy" and j.score is not None}
        for rows in (people, told["parrot"])
    ]
    shared = pmi[0].keys() & pmi[1].keys()
    assert len(shared) > 4
    assert found["reference_above.parrot.pmi"] == pytest.approx(np.mean([pmi[0][d] > pmi[1][d] for d in shared]))
    assert found["capped.parrot"] == 1 and found["capped.cut"] is None and found["capped.cut_n"] == 0
    kinds = {key.split(".")[1] for key in found if key.startswith("contrast.")}
    assert kinds == {*contrast.WRITTEN, *likelihood.SHOWN}
    assert all(0 <= found[f"contrast.{kind}.head_unseen.auc"] <= 1 for kind in kinds)


def test_surface_baselines_know_nothing_of_the_dialogue():
    train, test = dialogues("train"), dialogues("test")
    shown = contrast.questions(contrast.leading(test), test, ["truncated", "shuffled"])
    found = baselines.aucs(shown, baselines.Surface(train))
    assert found["contrast.truncated.length.auc"] == 1  # the shorter half of each
    assert found["contrast.generic.surface.auc"] > 0.8
    assert {k.split(".")[1] for k in found} == {*contrast.WRITTEN, "truncated", "shuffled"} and len(found) == 15
    told = {"generic": lambda d: contrast.written(d)["generic"], "same": lambda d: d.reference, "empty": lambda d: " "}
    replies = {kind: [Question(d, kind, text(d)) for d in contrast.leading(test)] for kind, text in told.items()}
    above = baselines.above(replies, baselines.Surface(train))
    assert above["reference_above.same.surface"] == 0.5 and above["reference_above.generic.surface"] > 0.8 and len(above) == 2
