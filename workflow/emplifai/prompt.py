"""How a dialogue becomes the text that a model reads: one place for training, generation and likelihoods."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from emplifai import labels, prompts
from emplifai.errors import UserError
from emplifai.params import Data
from emplifai.records import Dialogue

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}
Segment = tuple[str, str | None]  # a piece of text and the task that learns to write it (None: given)
CONTROL = re.compile(
    r"<([|/]?[A-Za-z][^<>\s]{0,40}|\|[^<>]{1,40}\|)>|\[(/?[A-Z_]{3,20})\]"
)  # <end_of_turn>, <|im_end|>, </s>, [INST]
NO_REASONING = "<think>\n\n</think>\n\n"  # opens an answer of Qwen3, which takes it out of earlier ones; here it stays


class Wording(NamedTuple):
    """The words around a dialogue: a file prompts/talk-NAME.yaml. situation, patient, supporter and emotion open a part."""

    language: str
    task: str
    situation: str
    patient: str
    supporter: str
    emotion: str
    question: str  # with a place for {labels}
    comma: str  # between the labels
    stock: str
    padding: str
    closing: str


class Talk(NamedTuple):
    """What a dialogue becomes a text with: the emotions' names, and the words around it."""

    labels: dict[str, labels.Label]
    wording: Wording


def _wording(name: str) -> Wording:
    found = prompts.load("talk", name)
    wording = Wording(**{key: found[key] for key in Wording._fields})
    if "{labels}" not in wording.question:
        raise UserError(f"prompts/talk-{name}.yaml: question: put {{labels}} where the model is told the emotions")
    return wording


def talk_of(data: Data, dialogues: Iterable[Dialogue] = ()) -> Talk:
    """As data.labels and data.prompt say. Raises UserError naming each emotion of the dialogues that is no label."""
    return Talk(labels.covering(data.labels, dialogues), _wording(data.prompt))


def inert(text: str) -> str:
    """The text with what a chat template could take for a control token in full-width brackets, as people would read it.

    Templates join words and control tokens to one string; without this a patient who writes "<end_of_turn>" ends the turn.
    """
    return CONTROL.sub(lambda found: f"＜{found[1]}＞" if found[1] else f"［{found[2]}］", text)


def messages(dialogue: Dialogue, talk: Talk, emotion: str | None = None, reply: bool = True) -> list[Message]:
    """The whole conversation for a chat model: turns, the question for the emotion and its answer.

    emotion: name of a label to tell the model beforehand. reply: whether the supporter's last words are part of it.
    The task and the situation open the patient's first turn: of a system message some templates show nothing (LLM-jp), and
    others refuse it (Gemma 2).
    """
    known, words = talk
    opening = f"{words.task}\n\n{words.situation}{inert(dialogue.situation)}"
    if emotion:
        opening += f"\n{words.emotion}{known[emotion].word}"
    turns = dialogue.turns if reply else dialogue.turns[:-1]
    said = [{"role": "user" if t.role == "patient" else "assistant", "content": inert(t.text)} for t in turns]
    said[0]["content"] = f"{opening}\n{words.patient}{said[0]['content']}"
    question = words.question.format(labels=words.comma.join(label.word for label in known.values()))
    if not reply:  # the question joins the patient's turn: templates want the roles to alternate
        said[-1]["content"] += f"\n\n{question}"
    else:
        said.append({"role": "user", "content": question})
    answer = {"role": "assistant", "content": known[dialogue.emotion].word}
    return [*said, answer]


def question(
    dialogue: Dialogue,
    talk: Talk,
    task: str,
    emotion: str | None = None,
    reply: bool = True,
    shots: tuple[Dialogue, ...] = (),
) -> list[Message]:
    """What a chat model is sent for a task, with the exemplars' talk before: the last message is the user's."""
    whole = messages(dialogue, talk, emotion, reply or task == "reply")
    told = [m for shot in shots for m in messages(shot, talk, emotion and shot.emotion, reply or task == "reply")]
    end = -1 if task == "emotion" else -3  # without the emotion's answer; without reply, question and answer
    return [*told, *whole[:end]]


def segments(
    dialogue: Dialogue,
    talk: Talk,
    tokenizer: Any,
    emotion: str | None = None,
    reply: bool = True,
    shots: tuple[Dialogue, ...] = (),
) -> list[Segment]:
    """The text of a dialogue in pieces; pieces marked "reply" or "emotion" are what a model is to write.

    A tokenizer with a chat template gets its own form, any other the plain one. What a model sees before it writes is
    all text before the last piece of that task. shots: exemplars that stand before it, nothing of them learnt.
    """
    chat = getattr(tokenizer, "chat_template", None)
    if chat:
        return _chat(dialogue, talk, tokenizer, emotion, reply, shots)
    before = "".join("".join(text for text, _ in _plain(shot, talk, emotion and shot.emotion, reply)) + "\n" for shot in shots)
    pieces = _plain(dialogue, talk, emotion, reply)
    return [(before + pieces[0][0], pieces[0][1]), *pieces[1:]]


def _plain(dialogue: Dialogue, talk: Talk, emotion: str | None, reply: bool) -> list[Segment]:
    known, words = talk
    given = f"{words.situation}{dialogue.situation}\n" + (f"{words.emotion}{known[emotion].word}\n" if emotion else "")
    pieces: list[Segment] = []
    for turn in dialogue.turns if reply else dialogue.turns[:-1]:
        if turn.role == "patient":
            given += f"{words.patient}{turn.text}\n"
        else:
            pieces += [(given + words.supporter, None), (turn.text + "\n", "reply")]
            given = ""
    return [*pieces, (given + words.emotion, None), (known[dialogue.emotion].word + "\n", "emotion")]


def _chat(dialogue, talk, tokenizer, emotion, reply, shots) -> list[Segment]:
    told = [m for shot in shots for m in messages(shot, talk, emotion and shot.emotion, reply)]
    before = [*_system(tokenizer), *told]
    said = [*before, *messages(dialogue, talk, emotion, reply)]
    pieces: list[Segment] = []
    done = ""
    for k, message in enumerate(said):
        if message["role"] != "assistant" or k < len(before):
            continue
        # enable_thinking: templates that know it open the answer without reasoning; the others take no notice
        given = tokenizer.apply_chat_template(said[:k], tokenize=False, add_generation_prompt=True, enable_thinking=False)
        whole = tokenizer.apply_chat_template(said[: k + 1], tokenize=False, enable_thinking=False)
        past = done if given.startswith(done) else done.replace(NO_REASONING, "")
        if not given.startswith(past) or not whole.startswith(given):
            raise UserError(
                f"{tokenizer.name_or_path}: its chat template rewrites what was said before (answer {k}); "
                "give the model a template that only appends (chat_template.jinja in its folder)"
            )
        task = "emotion" if k == len(said) - 1 else "reply"
        pieces += [(given.removeprefix(past), None), (whole.removeprefix(given), task)]
        done = whole
    return pieces


def _system(tokenizer: Any) -> list[Message]:
    """A system message, for a template that shows words of its own in its place (LLM-jp); for all others none."""
    from jinja2 import TemplateError

    asked = [{"role": "system", "content": "situation"}, {"role": "user", "content": "?"}]
    try:
        shown = tokenizer.apply_chat_template(asked, tokenize=False)
    except TemplateError:  # refused
        return []
    without = tokenizer.apply_chat_template(asked[1:], tokenize=False)
    return asked[:1] if shown != without and "situation" not in shown else []


def split_at(pieces: list[Segment], task: str) -> tuple[list[Segment], str]:
    """What a model reads before it writes its (last) answer to a task, and that answer with its end."""
    last = max(k for k, (_, t) in enumerate(pieces) if t == task)
    return pieces[:last], pieces[last][0]


def before(pieces: list[Segment], task: str) -> str:
    """The text that a model reads before it writes its answer to a task."""
    return "".join(text for text, _ in split_at(pieces, task)[0])


def encode(pieces: list[Segment], tokenizer: Any) -> tuple[list[int], list[str | None]]:
    """Token ids of a text in pieces, and for each token the task that learns it (None: given).

    The one way from text to ids: training, generation and scoring all use it, so that they agree to the token at every
    boundary. Each piece is tokenised by itself and the ids are joined. The plain form starts with one BOS where the
    tokenizer has one, and words such as "<eos>" in a text stay words; a chat template brings its own special tokens.
    """
    plain = not getattr(tokenizer, "chat_template", None)
    ids = [tokenizer.bos_token_id] if plain and tokenizer.bos_token_id is not None else []
    tasks: list[str | None] = [None] * len(ids)
    for number, (text, task) in enumerate(pieces):
        new = encode_piece(text, tokenizer, first=number == 0)
        ids += new
        tasks += [task] * len(new)
    return ids, tasks


def encode_piece(text: str, tokenizer: Any, first: bool = False) -> list[int]:
    """Ids of one piece, no special token added. first: it opens the text.

    Some tokenizers (SentencePiece) put a blank before a text; a piece that does not open the text is read after a line
    break, which is then cut off, so that it gets none.
    """
    if not text:
        return []
    plain = not getattr(tokenizer, "chat_template", None)

    def ids(part: str) -> list[int]:
        return tokenizer(part, add_special_tokens=False, split_special_tokens=plain)["input_ids"]

    if first:
        return ids(text)
    lead, whole = ids("\n"), ids("\n" + text)
    return whole[len(lead) :] if whole[: len(lead)] == lead and len(whole) > len(lead) else ids(text)
