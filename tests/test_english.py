"""A study in English, as the README says: the whole workflow, and no word of Japanese in anything that it writes."""

import csv
import itertools
import re
import string

import pytest

from conftest import THREADS, build_tiny, change_params, make_project, runner

EMOTIONS = {
    "worry": ("Late at night on the ward", "I am afraid of {}", "Being afraid of {} wears you out."),
    "relief": ("On the telephone", "I am so glad about {}", "After all that waiting, {} must feel like a weight gone."),
    "anger": ("At the front desk", "Nobody told me anything about {}", "You should have been told about {} long before."),
    "gratitude": ("On the last day", "Please thank everyone for {}", "They will be happy to hear what {} meant to you."),
}
MATTERS = ["the operation", "my blood test", "going home", "the new tablets", "the night nurse", "my heart", "the waiting room"]
MATTERS += ["the second opinion", "physiotherapy", "the scan of my knee"]
JAPANESE = re.compile("[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]")


def write(path):
    fields = ["dialogue_id", "situation_id", "emotion", "situation", "patient", "supporter"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(fields)
        for (emotion, (place, patient, supporter)), (m, matter) in itertools.product(EMOTIONS.items(), enumerate(MATTERS)):
            for k, more in enumerate(("; I could not sleep.", ", and I told my sister about it.")):
                about = [f"{emotion}-{m}-{k}", f"{emotion}-{m}", emotion, f"{place}, because of {matter}."]
                more = " Write to me: me@example.org." if (emotion, m, k) == ("worry", 0, 0) else more
                table.writerow([*about, patient.format(matter) + more, supporter.format(matter) + " Tell me more." * k])


@pytest.mark.slow
def test_nothing_that_it_writes_holds_a_word_of_japanese(tmp_path):
    build_tiny(tmp_path / "model", letters=string.printable)
    project = make_project(tmp_path / "project", tmp_path / "model")
    write(project / "my.csv")
    (project / "emotions.yaml").write_text("".join(f"{name}:\n" for name in EMOTIONS))
    change_params(
        project,
        data__path="my.csv",
        data__labels="emotions.yaml",
        data__prompt="en-v1",
        judge__rubric="en-v1",
        validate__language="any",
        validate__personal_data="mask",
        report__title="A study in English",
    )
    runner(project)("snakemake", "--cores", "2", "all", **THREADS)
    written = [f for folder in ("results", "logs") for f in (project / folder).rglob("*") if f.is_file()]
    texts = {f.relative_to(project): f.read_text("utf-8") for f in written if f.suffix not in (".safetensors", ".png", ".pdf")}
    assert len(texts) > 50
    found = {str(name): words for name, text in texts.items() if (words := JAPANESE.findall(text))}
    assert not found
    read = {str(name): text for name, text in texts.items()}
    assert "Write to me: [e-mail address]." in read["results/validate/dialogues.jsonl"]
    assert '<html lang="en"' in read["results/report/index.html"]
    assert "\nreference,reply,worry," in read["results/bertscore/emotions.csv"]
