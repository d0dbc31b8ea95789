"""Write docs/params.md from the schema, and into dvc.yaml the code of each stage: `python docs/make.py`.

A test fails when one of them is not up to date.
"""

import re
from pathlib import Path

from emplifai import STAGES
from emplifai.params import Params
from emplifai.paths import Paths

ROOT = Path(__file__).parent.parent
HEAD = """# params.yaml

Every key, its values, its default and its meaning. Made from `workflow/emplifai/params.py` by `python docs/make.py`; do not edit.
A key left out has its default (`dvc` wants `data.labels` and `data.prompt` in the file); a key that is not here is an error.
"""
BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}


def values(schema: dict) -> str:
    """What a value may be, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(values(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{v}`" for v in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "prefixItems" in schema:
        return f"[{', '.join(values(item) for item in schema['prefixItems'])}]"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {values(schema['items'])}"
    if kind == "object":
        return "map"
    bounds = [text.format(schema[key]) for key, text in BOUNDS.items() if key in schema]
    name = {"string": "text", "number": "number", "integer": "integer", "boolean": "true, false"}.get(kind, kind)
    return " ".join([schema.get("format", name), *bounds])


def default(schema: dict, required: bool) -> str:
    if required:
        return "required"
    value = schema.get("default")
    return f"`{'null' if value is None else str(value).lower() if isinstance(value, bool) else value}`"


def section(title: str, schema: dict, definitions: dict) -> list[str]:
    about = [schema["description"] + "\n"] if "description" in schema else []
    lines = [f"\n## {title}\n", *about, "| key | values | default | meaning |", "|---|---|---|---|"]
    inner = []
    for name, field in schema["properties"].items():
        if "$ref" in field:
            inner += section(f"{title}.{name}", definitions[field["$ref"].split("/")[-1]], definitions)
            continue
        shown = default(field, name in schema.get("required", []))
        lines.append(f"| `{name}` | {values(field)} | {shown} | {field.get('description', '')} |")
    return [*lines, *inner]


def page() -> str:
    schema = Params.model_json_schema()
    definitions = schema["$defs"]
    lines = [HEAD]
    for name, field in schema["properties"].items():
        each = field.get("additionalProperties") or next(iter(field.get("patternProperties", {}).values()), {})
        reference = (field.get("$ref") or each["$ref"]).split("/")[-1]
        lines += section(name if "$ref" in field else f"{name}.NAME", definitions[reference], definitions)
    return "\n".join(lines) + "\n"


def pipeline(text: str) -> str:
    """dvc.yaml with each stage watching its rule and all code that it imports; other dependencies stay."""
    paths = Paths()
    for stage in STAGES:
        begin, block, end = re.split(rf"(^  {stage}:\n(?:    .*\n)+)", text, maxsplit=1, flags=re.M)
        others = [d for d in re.findall(r"^      - (.*)\n", block, re.M) if not d.startswith("workflow/") or "/prompts" in d]
        code = [f"workflow/rules/{stage}.smk", *paths.code(stage), *(paths.templates if stage == "report" else [])]
        lines = "".join(f"      - {d}\n" for d in [*code, *others])
        text = begin + re.sub(r"(    deps:\n)(?:      - .*\n)+", lambda found, lines=lines: found[1] + lines, block) + end
    return text


if __name__ == "__main__":
    (ROOT / "dvc.yaml").write_text(pipeline((ROOT / "dvc.yaml").read_text("utf-8")), encoding="utf-8")
    (ROOT / "docs/params.md").write_text(page(), encoding="utf-8")
