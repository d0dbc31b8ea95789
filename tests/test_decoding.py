"""Decoding and scoring of texts: equal to transformers, whatever the batch."""

import pytest
import torch

from conftest import TALK, dialogues
from emplifai import prompt
from emplifai.backends import batches, caches, decoding, likelihoods, weights
from emplifai.params import Model

LABELS = TALK.labels
pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.parametrize("penalty,ngram,shots", [(1.0, 0, 0), (1.3, 0, 1), (1.15, 3, 0), (1.0, 0, 1)])
def test_greedy_is_transformers_generate(loaded, penalty, ngram, shots):
    """Also behind an exemplar that all prompts begin with: its keys exist once, and the window sees none or a part of it."""
    model, tokenizer = loaded
    rows = prompts(tokenizer, shots=tuple(dialogues(4, 1)[:shots]))
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
    assert reader._once == bool(shots)
    assert shots or len({len(row) for row in expected}) > 1


@pytest.mark.parametrize("why", ["its attention sees its own keys only", "it raises", "not SDPA's"])
def test_a_model_that_cannot_share_keys_gets_copies(loaded, monkeypatch, why):
    model, tokenizer = loaded
    rows, how = prompts(tokenizer, shots=tuple(dialogues(4, 1)[:1])), decoding.Decoding(12)
    expected = [peer(model, row, how, {2}) for row in rows]
    before = model.config._attn_implementation
    if why == "not SDPA's":
        model.set_attn_implementation("eager")
    else:
        monkeypatch.setattr(caches, "behind", (lambda beginning: caches.new()) if "own" in why else None)
    reader = batches.Reader(model)
    reader.share(rows)
    assert reader._prefix and not reader._once
    with torch.inference_mode():
        assert decoding._decode(reader, rows, [0] * len(rows), how, frozenset({2}), lambda text: None) == expected
    model.set_attn_implementation(before)


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
