"""README.md of an adapter's folder: what it is, how it was made, what it cannot do."""

import json
from typing import Any

LIMITS = """- It learnt the form of supportive answers from a small set of dialogues. It knows no medicine and no patient.
- It is made for studying evaluations. Do not put it in front of patients.
- What it was trained on may show in what it writes; it inherits all limits of its base model."""


def card(
    base: dict[str, Any], data: dict[str, str], settings: dict[str, Any], metrics: dict[str, Any], dtype: str, language: str
) -> str:
    """Markdown with the front matter that the Hugging Face hub reads."""
    front = f"---\nlibrary_name: peft\nlanguage: {language}\nbase_model: {json.dumps(base['model'])}\n"
    front += "tags: [lora, emplifai]\n---"
    rows = [
        f"| {name} | {value:.4f} |" if isinstance(value, float) else f"| {name} | {value} |" for name, value in metrics.items()
    ]
    return f"""{front}

# LoRA adapter for empathetic replies to patients

Base: `{base["model"]}`, revision {base["revision"] or "not applicable"}, fingerprint `{base["fingerprint"]}`.
Licence: this adapter is of use with its base only; the licence and terms of use of the base apply to both.

    model = AutoModelForCausalLM.from_pretrained(BASE)
    model = PeftModel.from_pretrained(model, "this folder")

## Data

{chr(10).join(f"- {name}: sha256 `{digest}`" for name, digest in data.items())}

## Settings (computed in {dtype})

```json
{json.dumps(settings, ensure_ascii=False, indent=2)}
```

## Metrics (losses in nats a token; dev dialogues were not trained on)

| metric | value |
|---|---|
{chr(10).join(rows)}

## Limits

{LIMITS}
"""
