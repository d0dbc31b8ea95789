"""generate: the same texts as transformers' own generate, exact scores, anchors, resume."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from conftest import TALK, change_params, dialogues, environment
from emplifai import generate, probes, prompt, systems
from emplifai.backends import batches, decoding, likelihoods, rubric, weights
from emplifai.backends.transformers import Transformers
from emplifai.cache import Cache
from emplifai.errors import UserError
from emplifai.params import Data, Generate, Model
from emplifai.records import Dialogue, Question, Reply, Turn, read_jsonl, write_jsonl

LABELS = TALK.labels


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["llama", "gemma"])
def loaded(request, tiny_model):
    """A tiny full-attention model, and one with a window of 24 tokens in every other layer: shorter than the prompts."""
    model, tokenizer = weights.load(Model(backend="transformers", model=str(tiny_model)), dtype="float32")
    if request.param == "gemma":
        model = gemma(len(tokenizer))
    with torch.no_grad():  # random weights of the usual size give nearly flat logits: make the model opinionated
        for p in model.parameters():
            p.mul_(1 if p.ndim < 2 else 4)
    return model, tokenizer


def gemma(vocabulary: int):
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(1)
    config = Gemma3TextConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=24,
        layer_types=["sliding_attention", "full_attention"] * 2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    return Gemma3ForCausalLM(config).eval()


def prompts(tokenizer, count=9, shots=()) -> list[list[int]]:
    some = dialogues(3, 3)[:count]
    given = [prompt.split_at(prompt.segments(d, TALK, tokenizer, shots=shots), "reply")[0] for d in some]
    return [prompt.encode(g, tokenizer)[0] for g in given]


class OnGenerated:
    """A logits processor of transformers that sees the generated ids only."""

    def __init__(self, processor, start):
        self.processor, self.start = processor, start

    def __call__(self, ids, scores):
        return self.processor(ids[:, self.start :], scores) if ids.shape[1] > self.start else scores


def peer(model, row, how, stops) -> list[int]:
    """What transformers' own generate writes after one prompt."""
    from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    processors = LogitsProcessorList()
    if how.repetition_penalty != 1:
        processors.append(OnGenerated(RepetitionPenaltyLogitsProcessor(how.repetition_penalty), len(row)))
    if how.no_repeat_ngram:
        processors.append(OnGenerated(NoRepeatNGramLogitsProcessor(how.no_repeat_ngram), len(row)))
    out = model.generate(
        torch.tensor([row]),
        attention_mask=torch.ones(1, len(row), dtype=torch.long),
        do_sample=False,
        max_new_tokens=how.max_new_tokens,
        logits_processor=processors,
        eos_token_id=sorted(stops),
        pad_token_id=3,
    )
    return out[0, len(row) :].tolist()


@pytest.mark.parametrize("penalty,ngram", [(1.0, 0), (1.3, 0), (1.15, 3)])
def test_greedy_is_transformers_generate(loaded, penalty, ngram):
    model, tokenizer = loaded
    rows = prompts(tokenizer)
    how = decoding.Decoding(24, repetition_penalty=penalty, no_repeat_ngram=ngram)
    free = [peer(model, row, how, {2}) for row in rows]
    stops = frozenset({2, free[0][5], free[3][9]})  # tokens that do occur, so that rows leave at different steps
    reader = batches.Reader(model)
    with torch.inference_mode():
        alone = decoding._decode(reader, rows, [0] * len(rows), how, stops, lambda text: None)
        reader.share(rows)
        shared = decoding._decode(reader, rows, [0] * len(rows), how, stops, lambda text: None)
    expected = [peer(model, row, how, stops) for row in rows]
    assert alone == expected and shared == expected
    assert len({len(row) for row in expected}) > 1


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_texts_do_not_depend_on_batch_or_order(loaded, temperature):
    model, tokenizer = loaded
    rows = prompts(tokenizer)
    how = decoding.Decoding(16, temperature=temperature, top_p=0.9, repetition_penalty=1.15, no_repeat_ngram=4, seed=3)
    reader, stops = batches.Reader(model), frozenset({2})
    together = decoding.write(reader, tokenizer, rows, [0] * len(rows), how, stops)
    singly = [decoding.write(reader, tokenizer, [row], [0], how, stops)[0] for row in reversed(rows)]
    assert together == singly[::-1]
    other = decoding.write(reader, tokenizer, rows, [1] * len(rows), how, stops)
    assert (other != together) == (temperature > 0)


def test_sampling_draws_from_the_nucleus():
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(2000, 1)
    points = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    drawn = decoding.sample(scores, points, decoding.Decoding(1, temperature=1.0, top_p=0.75)).tolist()
    counts = [drawn.count(k) / 2000 for k in range(4)]
    assert counts == pytest.approx([0.625, 0.375, 0, 0], abs=1e-3)  # 0.5 and 0.3 reach 0.75; renormalised
    assert set(decoding.sample(scores, points, decoding.Decoding(1, temperature=1.0)).tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("vocabulary", [512, 511])
def test_the_most_probable_token_is_that_of_transformers_processors(vocabulary):
    """Equal logits (bfloat16 has many) go to the lowest id; penalised and banned ids as transformers has them."""
    from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    torch.manual_seed(0)
    logits = (torch.randn(64, vocabulary) * 2).bfloat16()
    seen = torch.randint(0, 6, (64, 12))
    logits[:, :6] += 5.0
    plain = decoding.choose(logits.clone(), seen, None, decoding.Decoding(1))
    assert plain.tolist() == logits.float().argmax(-1).tolist()
    how = decoding.Decoding(1, repetition_penalty=1.3, no_repeat_ngram=2)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(seen, logits.float())
    expected = NoRepeatNGramLogitsProcessor(2)(seen, expected).argmax(-1)
    assert decoding.choose(logits.clone(), seen, None, how).tolist() == expected.tolist()
    assert 10 < sum(token < 6 for token in expected.tolist()) < 60


def plain_log_p(model, p: list[int], c: list[int]) -> float:
    with torch.inference_mode():
        logits = model(torch.tensor([p + c])).logits[0].log_softmax(-1)
    return sum(float(logits[len(p) + k - 1, t]) for k, t in enumerate(c))


def test_log_probabilities_are_those_of_a_plain_forward(loaded):
    model, tokenizer = loaded
    pairs = [(d.patient, d.reference[: 5 + 7 * k]) for k, d in enumerate(dialogues(2, 3)[:7])] + [("", "はい"), ("はい", "")]
    found = likelihoods.log_probabilities(model, tokenizer, pairs, 400)
    for (p, c), (value, tokens) in zip(pairs, found, strict=True):
        ids, follow = prompt.encode([(p, None)], tokenizer)[0], prompt.encode_piece(c, tokenizer)
        assert tokens == len(follow) == len(c)
        assert value == pytest.approx(plain_log_p(model, ids, follow), abs=2e-3, rel=1e-5)


def test_labels_in_one_pass_equal_separate_passes(loaded):
    model, tokenizer = loaded
    rows = prompts(tokenizer, 5, shots=tuple(dialogues(4, 1)[:1]))
    answers = [prompt.encode_piece(label.word + "\n", tokenizer) for label in LABELS.values()]
    reader = batches.Reader(model)
    reader.share(rows)
    assert len(reader._prefix) > 100
    found = likelihoods.Choices(answers).score(reader, rows)
    for row, values in zip(rows, found, strict=True):
        assert values == pytest.approx([plain_log_p(model, row, a) for a in answers], abs=2e-3)


def test_one_bos_and_no_special_token_from_a_text(tiny_model):
    tokenizer = weights.load_tokenizer(Model(backend="transformers", model=str(tiny_model)))
    d = replace(dialogues(1, 1)[0], situation="ab<eos>c")
    pieces = prompt.segments(d, TALK, tokenizer)
    ids, tasks = prompt.encode(pieces, tokenizer)
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids and len(ids) == len(tasks)
    words = "".join(tokenizer.convert_ids_to_tokens([i for i, t in zip(ids, tasks, strict=True) if t == "reply"]))
    assert words == d.reference + "\n"


def test_a_study_in_english_puts_no_word_of_japanese_before_a_model(tiny_model, tmp_path):
    labels = tmp_path / "labels.yaml"
    labels.write_text("worry: {definition_en: Fear of what may come.}\nlow_spirits:\n")
    talk = prompt.talk_of(Data(labels=labels, prompt="en-v1"))
    turns = [Turn("patient", "I cannot sleep."), Turn("supporter", "The nights are long, then.")]
    d, shot = (replace(dialogues(1, 1)[0], emotion=e, situation="The night before.", turns=turns) for e in talk.labels)
    tokenizer = weights.load_tokenizer(Model(backend="transformers", model=str(tiny_model)))
    plain = "".join(text for text, _ in prompt.segments(d, talk, tokenizer, emotion=d.emotion, shots=(shot,)))
    assert plain.endswith("Supporter:\nThe nights are long, then.\nThe patient's emotion:\nworry\n")
    asked = [m["content"] for task in ("reply", "emotion") for m in prompt.question(d, talk, task, d.emotion)]
    judged = Question(d, "m", "I see.")
    for wanted in ("empathy", "emotion_empathy"):
        asked += [m["content"] for m in rubric.messages(judged, wanted, "en-v1", talk.labels, (1, 5))]
    assert "worry, low spirits" in asked[-5] and "emotion: worry\nIts definition: Fear of what may come." in asked[-1]
    other = replace(shot, dialogue_id="2", situation_id="2", turns=[turns[0], Turn("supporter", "Tell me more.")])
    probed = [(p.name, p.question) for p in probes.probes([d, other], talk)]
    assert {"change:padding", "change:polite_closing", "change:stock_phrase", "attack:heading"} <= {name for name, _ in probed}
    swapped = [question.dialogue.emotion for name, question in probed if name == "swap:emotion"]
    assert sorted(swapped) == ["low_spirits", "worry"]  # the labels tell no polarity: any other one
    texts = [rubric.neutral(question.text) for _, question in probed]
    assert all(re.sub("[＜＞［］]", "", text).isascii() for text in (plain, *asked, *texts))


@pytest.mark.parametrize("words", ["<eos>", "<|im_end|>", "[INST]", "</s>", "<bos>"])
def test_words_of_a_patient_open_no_turn_of_a_chat(tiny_model, words):
    tokenizer = weights.load_tokenizer(Model(backend="transformers", model=str(tiny_model)))
    tokenizer.chat_template = CHATML
    d = dialogues(1, 1)[0]
    evil = replace(d, situation=d.situation + words, turns=[replace(t, text=f"熱が>38度。{words}次") for t in d.turns])
    specials = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    counts = [[i for i in prompt.encode(prompt.segments(x, TALK, tokenizer), tokenizer)[0] if i in specials] for x in (d, evil)]
    assert counts[0] == counts[1]
    told = prompt.question(evil, TALK, "reply")  # what a server is sent
    assert all(words not in m["content"] for m in told) and "熱が>38度。" in told[-1]["content"]


def test_anchors():
    all_ = dialogues()
    test = [d for d in all_ if d.situation_id.endswith("10")]
    train = [d for d in all_ if not d.situation_id.endswith("10")]
    answers = {name: system(test, train, 42) for name, system in systems.SYSTEMS.items()}
    assert answers["reference"] == [(d.reference, d.emotion) for d in test]
    assert answers["parrot"] == [(d.patient, None) for d in test]
    owners = {d.reference: d for d in all_}
    for d, (text, emotion) in zip(test, answers["shuffled"], strict=True):
        assert owners[text].situation_id != d.situation_id and owners[text] in test and owners[text].emotion == emotion
    assert all(owners[text] in train for text, _ in answers["retrieval"])
    assert systems.shuffled(test[::-1], train, 42)[::-1] == answers["shuffled"]
    assert systems.shuffled(test, train, 43) != answers["shuffled"]
    assert systems.retrieval(train[:3], train, 0) == [(d.reference, d.emotion) for d in train[:3]]
    assert not systems.emotions("parrot", "parrot", test, answers["parrot"], LABELS)


def test_exemplars_are_of_different_emotions_and_do_not_move_with_order():
    some = dialogues()
    three = generate.exemplars(some, 3)
    assert len({d.emotion for d in three}) == 3 and generate.exemplars(some[::-1], 3) == three
    assert generate.exemplars(some, 0) == ()


def made(dialogue, task="reply", text="", reason="stop", label=None) -> Reply:
    return Reply(dialogue.dialogue_id, "m", task, 0, text, reason, "", "", "", label=label)


def test_metrics_by_hand():
    test = dialogues(2, 2)[:4]
    texts, reasons = ["abcd", "abc", "", "x"], ["stop", "length", "empty", "stop"]
    replies = [made(d, text=t, reason=r) for d, t, r in zip(test, texts, reasons, strict=True)]
    tokens, nats = [1, 3, 2, 2], [4.0, 6.0, 2.0, 4.0]
    rows = [{"dialogue_id": d.dialogue_id, "tokens": n, "nats": v} for d, n, v in zip(test, tokens, nats, strict=True)]
    values = generate.metrics(test, replies, [], rows)
    assert values["replies_empty"] == 1 and values["replies_length"] == 1 and values["mean_characters"] == 2
    assert values["distinct_3"] == pytest.approx(2 / 3, abs=1e-6)  # abc, bcd, abc
    assert values["nats_per_token"] == 2.0  # 16 nats over 8 tokens
    emotions = [made(d, "emotion", label=d.emotion if k else "none") for k, d in enumerate(test)]
    assert generate.metrics(test, [], emotions, [])["emotion_accuracy"] == 0.75


def system(tmp_path, tiny_model, **settings) -> Transformers:
    entry = Model(backend="transformers", model=str(tiny_model), dtype="float32")
    return Transformers("base", entry, Generate(max_new_tokens=8, **settings), TALK, Cache(tmp_path / "cache"))


def test_a_second_run_asks_nothing_and_writes_the_same(tmp_path, tiny_model):
    some = dialogues(2, 3)
    first, second = (system(tmp_path, tiny_model) for _ in range(2))
    fresh = first.reply(some), first.emotion(some), first.likelihood(some)
    second.cache.refresh()
    known = second.reply(some), second.emotion(some), second.likelihood(some)
    assert fresh == known
    assert (first.fresh, first.cached) == (3 * len(some), 0) and (second.fresh, second.cached) == (0, 3 * len(some))
    assert "reader" not in second.__dict__  # no model was loaded
    third = system(tmp_path, tiny_model, temperature=0.7, samples=2)
    assert len({(r.dialogue_id, r.sample) for r in third.reply(some)}) == 2 * len(some) and third.fresh == 2 * len(some)
    assert third.likelihood(some) == fresh[2] and third.fresh == 2 * len(some)  # no decoding setting changes a likelihood


def test_emotion_as_text_is_read_as_a_label(tmp_path, tiny_model):
    some = dialogues(1, 2)
    made = system(tmp_path, tiny_model, emotion={"method": "text", "context": "patient"}).emotion(some)
    assert {r.label for r in made} <= {*LABELS, "none"} and all(r.ranking is None for r in made)
    scored = system(tmp_path, tiny_model).emotion(some)
    assert all(sorted(r.ranking) == sorted(LABELS) and r.label == r.ranking[0] and r.text == LABELS[r.label].word for r in scored)


@pytest.fixture
def parts(project):
    """The project with its split, as the stages before write it."""
    rows = dialogues()
    for name, ends in (("train", "12345678"), ("dev", "9"), ("test", "0")):
        write_jsonl(project / f"results/split/{name}.jsonl", [d for d in rows if d.situation_id[-1] in ends])
    return project


def results(folder, name="base") -> dict[str, bytes]:
    out = folder / "results/generate" / name
    return {p: (out / p).read_bytes() for p in ("reply.jsonl", "emotion.jsonl", "likelihood.jsonl", "metrics.json")}


def test_command_line_and_tasks(parts, run):
    for name in ("reference", "parrot", "base"):
        run("emplifai", "generate", "--model", name)
    assert len(list(read_jsonl(parts / "results/generate/base/reply.jsonl", Reply))) == 16
    assert json.loads((parts / "results/generate/reference/metrics.json").read_text())["emotion_accuracy"] == 1.0
    change_params(parts, generate__tasks=["reply"])
    run("emplifai", "generate", "--model", "base")
    assert results(parts)["emotion.jsonl"] == b"" and results(parts)["reply.jsonl"]
    (parts / "other.yaml").write_text("up: {ja: 上向き}")
    change_params(parts, data__labels="other.yaml")
    for name in ("base", "reference"):
        done = run("emplifai", "generate", "--model", name, ok=False)
        assert done.returncode == 2 and "error: other.yaml: no label 'admiration', which dialogue admiration-" in done.stderr
    change_params(parts, data__labels="data/labels.yaml")
    done = run("emplifai", "generate", "--model", "tuned", ok=False)
    assert done.returncode == 2 and "run finetune first" in done.stderr


def test_killed_in_the_middle_goes_on(parts, run):
    change_params(parts, generate__batch_tokens=300, generate__max_new_tokens=64)
    command = [sys.executable, "-m", "emplifai", "generate", "--model", "base"]
    job = subprocess.Popen(command, cwd=parts, env=environment(OMP_NUM_THREADS="1"), stderr=subprocess.DEVNULL)
    while lines(parts) < 3 and job.poll() is None:
        time.sleep(0.005)
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    before = lines(parts)
    assert 3 <= before < 48 and not (parts / "results/generate/base/reply.jsonl").exists()
    run("emplifai", "generate", "--model", "base")
    assert lines(parts) == 48  # 16 replies, likelihoods and emotions: none computed twice
    notes = json.loads((parts / "results/generate/base/run.json").read_text())
    assert notes["cached"] == before and notes["fresh"] == 48 - before
    resumed = results(parts)
    for path in (parts / ".cache/generate").iterdir():
        path.unlink()
    run("emplifai", "generate", "--model", "base")
    assert results(parts) == resumed


def lines(folder) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (folder / ".cache/generate").glob("*.jsonl"))


def test_a_server_is_asked_once(parts, run):
    """A stand-in for a server, on loopback: what it gets, what becomes of its answers, and that the cache spares it."""
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body)
            text = (
                "答えは「喜び」です。"
                if "次の中から一つ" in body["messages"][-1]["content"]
                else "<think>\n長い\n</think>\n\n そうですね。\n"
            )
            choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            data = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        change_params(parts, models__chat={"backend": "openai", "model": "m", "base_url": url, "shots": 1})
        run("emplifai", "generate", "--model", "chat")
        first = results(parts, "chat")
        run("emplifai", "generate", "--model", "chat")
        server.shutdown()
    assert len(asked) == 32 and results(parts, "chat") == first
    assert all(body["messages"][-1]["role"] == "user" and body["model"] == "m" for body in asked)
    replies = [json.loads(line) for line in first["reply.jsonl"].splitlines()]
    assert {r["text"] for r in replies} == {"そうですね。"} and replies[0]["output_tokens"] == 3
    emotions = [json.loads(line) for line in first["emotion.jsonl"].splitlines()]
    assert {r["label"] for r in emotions} == {"joy"} and first["likelihood.jsonl"] == b""
    tests = list(read_jsonl(parts / "results/split/test.jsonl", Dialogue))
    reply = next(b for b in asked if b["messages"][-1]["content"].endswith(f"患者：{tests[0].patient}"))
    assert tests[0].situation in reply["messages"][-1]["content"]
    assert not any(tests[0].reference in m["content"] for m in reply["messages"])


@pytest.mark.slow
def test_a_real_server_answers_and_a_dead_one_is_named(parts, run, serve):
    """`transformers serve` as a model of params.yaml: every dialogue answered, the second run asks nothing."""
    url, model = serve
    chat = {"backend": "openai", "model": model, "base_url": url}
    change_params(parts, models__chat=chat, generate__max_new_tokens=8)
    run("emplifai", "generate", "--model", "chat")
    first = results(parts, "chat")
    rows = [json.loads(line) for name in ("reply.jsonl", "emotion.jsonl") for line in first[name].splitlines()]
    tests = len(list(read_jsonl(parts / "results/split/test.jsonl", Dialogue)))
    assert len(rows) == 2 * tests and {r["task"] for r in rows} == {"reply", "emotion"}
    assert all(r["input_tokens"] > 50 and r["text"] and r["finish_reason"] in ("stop", "length") for r in rows)
    assert all(r["output_tokens"] <= 8 for r in rows if r["task"] == "reply")
    change_params(parts, models__chat=chat | {"base_url": "http://127.0.0.1:9/v1"}, generate__max_new_tokens=9)
    done = run("emplifai", "generate", "--model", "chat", ok=False)
    assert done.returncode == 2 and "127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr


CHATML = (
    "{% for m in messages %}<bos>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant\n{% endif %}"
)


def test_chat_template_gets_its_own_form(tiny_model):
    tokenizer = weights.load_tokenizer(Model(backend="transformers", model=str(tiny_model)))
    tokenizer.chat_template = CHATML
    d, shot = dialogues(2, 1)[0], dialogues(2, 1)[-1]
    pieces = prompt.segments(d, TALK, tokenizer, shots=(shot,))
    given, answer = prompt.split_at(pieces, "reply")
    assert answer == d.reference + "<eos>\n" and d.reference not in prompt.before(pieces, "reply")
    assert given[-1][0].endswith(f"\n患者：{d.patient}<eos>\n<bos>assistant\n")
    assert shot.reference in given[0][0] and shot.situation in given[0][0]
    ids, tasks = prompt.encode(pieces, tokenizer)
    talk = prompt.messages(d, TALK)
    roles = len(talk) + len(prompt.messages(shot, TALK))
    assert ids.count(tokenizer.bos_token_id) == roles  # the template's own, none added
    assert {ids[k] for k, t in enumerate(tasks) if t and tasks[k - 1] == t} >= {tokenizer.eos_token_id}
    assert decoding._end_of_turn(tokenizer) == {tokenizer.eos_token_id}
    last = prompt.question(d, TALK, "reply")[-1]
    assert last["role"] == "user" and last["content"].endswith(f"状況：{d.situation}\n患者：{d.patient}")
    tokenizer.chat_template = CHATML.replace("m['content']", "m['content'] if loop.last else 'x'")
    with pytest.raises(UserError, match="rewrites what was said before"):
        prompt.segments(d, TALK, tokenizer)


# What templates of well-known models do otherwise, in small: Gemma 2 refuses a system message, LLM-jp puts words of its
# own in its place, Qwen3 opens an answer with empty reasoning and takes that out of all answers but the last.
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
OWN_WORDS = CHATML.replace("m['content'] }}", "'答えよ。' if m['role'] == 'system' else m['content'] }}")
REASONS = CHATML.replace(
    "{{ m['content']", "{{ '<think>\n\n</think>\n\n' if m['role'] == 'assistant' and loop.last }}{{ m['content']"
).replace("<bos>assistant\n{%", "<bos>assistant\n{{ '<think>\n\n</think>\n\n' }}{%")


@pytest.mark.parametrize("form", [CHATML, REFUSES, OWN_WORDS, REASONS], ids=["plain", "refuses", "own words", "reasons"])
def test_the_situation_reaches_a_model_by_any_template(tiny_model, form):
    tokenizer = weights.load_tokenizer(Model(backend="transformers", model=str(tiny_model)))
    tokenizer.chat_template = form
    d, shot = dialogues(2, 1)[0], dialogues(2, 1)[-1]
    pieces = prompt.segments(d, TALK, tokenizer, emotion=d.emotion, shots=(shot,))
    for task, answer in (("reply", d.reference), ("emotion", LABELS[d.emotion].word)):
        given, written = prompt.split_at(pieces, task)
        before = "".join(text for text, _ in given)
        assert all(before.count(text) == 1 for text in (d.situation, d.patient, shot.situation, shot.reference))
        assert before.count("答えよ。") == (form == OWN_WORDS)
        assert written == answer + "<eos>\n"  # never reasoning, which the prompt has closed
        assert before.endswith("</think>\n\n") == (form == REASONS)
    assert d.reference in before
