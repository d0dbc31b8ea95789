"""How a dialogue becomes the text that a model reads: one place for training, generation and likelihoods."""

from functools import cache
from importlib.resources import files
from typing import Any

from emplifai.labels import Label
from emplifai.records import Dialogue

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}
Segment = tuple[str, str | None]  # a piece of text and the task that learns to write it (None: given)


@cache
def template(name: str) -> str:
    """A text file of prompts/, by its name without the ending."""
    return files("emplifai.prompts").joinpath(f"{name}.txt").read_text("utf-8").strip()


def messages(dialogue: Dialogue, labels: dict[str, Label], emotion: str | None = None, reply: bool = True) -> list[Message]:
    """The whole conversation for a chat model: system, turns, the question for the emotion and its answer.

    emotion: name of a label to tell the model beforehand. reply: whether the supporter's last words are part of it.
    """
    system = template("reply-ja-v1").format(situation=dialogue.situation)
    if emotion:
        system += f"\n患者の感情：{labels[emotion].ja}"
    turns = dialogue.turns if reply else dialogue.turns[:-1]
    talk = [{"role": "user" if t.role == "patient" else "assistant", "content": t.text} for t in turns]
    question = template("emotion-ja-v1").format(labels="、".join(label.ja for label in labels.values()))
    if not reply:  # the question joins the patient's turn: templates want the roles to alternate
        talk[-1]["content"] += f"\n\n{question}"
    else:
        talk.append({"role": "user", "content": question})
    answer = {"role": "assistant", "content": labels[dialogue.emotion].ja}
    return [{"role": "system", "content": system}, *talk, answer]


def segments(
    dialogue: Dialogue,
    labels: dict[str, Label],
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
        return _chat(dialogue, labels, tokenizer, emotion, reply, shots)
    before = "".join("".join(text for text, _ in _plain(shot, labels, emotion and shot.emotion, reply)) + "\n" for shot in shots)
    pieces = _plain(dialogue, labels, emotion, reply)
    return [(before + pieces[0][0], pieces[0][1]), *pieces[1:]]


def _plain(dialogue: Dialogue, labels: dict[str, Label], emotion: str | None, reply: bool) -> list[Segment]:
    given = f"状況：{dialogue.situation}\n" + (f"患者の感情：{labels[emotion].ja}\n" if emotion else "")
    pieces: list[Segment] = []
    for turn in dialogue.turns if reply else dialogue.turns[:-1]:
        if turn.role == "patient":
            given += f"患者：{turn.text}\n"
        else:
            pieces += [(given + "支援者：", None), (turn.text + "\n", "reply")]
            given = ""
    return [*pieces, (given + "患者の感情：", None), (labels[dialogue.emotion].ja + "\n", "emotion")]


def _chat(dialogue, labels, tokenizer, emotion, reply, shots) -> list[Segment]:
    talk = messages(dialogue, labels, emotion, reply)
    told = [m for shot in shots for m in messages(shot, labels, None, reply)[1:]]
    talk = [talk[0], *told, *talk[1:]]
    pieces: list[Segment] = []
    done = ""
    for k, message in enumerate(talk):
        if message["role"] != "assistant" or k <= len(told):
            continue
        given = tokenizer.apply_chat_template(talk[:k], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(talk[: k + 1], tokenize=False)
        task = "emotion" if k == len(talk) - 1 else "reply"
        pieces += [(given.removeprefix(done), None), (whole.removeprefix(given), task)]
        done = whole
    return pieces


def before(pieces: list[Segment], task: str) -> str:
    """What a model reads before it writes its answer to a task."""
    last = max(k for k, (_, t) in enumerate(pieces) if t == task)
    return "".join(text for text, _ in pieces[:last])
