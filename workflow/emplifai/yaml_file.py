"""YAML files that people write: faults are told with their line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from emplifai.errors import UserError


def read(path: Path, missing: str) -> tuple[yaml.Node | None, Any]:
    """A YAML file as nodes, which know their lines, and as values. Raises UserError; `missing` ends its words for no file."""
    try:
        text = Path(path).read_text("utf-8")
        node, values = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{missing}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if twice := list(_twice(node)):
        raise UserError(*(f"{path}:{line}: {key}: this key stands at line {first} already" for key, line, first in twice))
    return node, values


def _twice(node: yaml.Node | None) -> Iterator[tuple[str, int, int]]:
    """Keys that a mapping holds twice, of which YAML would take the last: (key, line, line of the first)."""
    todo, seen = [node], set()
    while todo:
        node = todo.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines:
                    yield name, line, lines[name]
                lines.setdefault(name, line)
                todo.append(value)


def line_of(node: yaml.Node | None, keys: list[str]) -> tuple[int, bool]:
    """Line of the deepest key that the file has, and whether it has them all."""
    if node is None:
        return 1, False
    line = node.start_mark.line + 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == key), None)
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            pair = (node.value[int(key)],) * 2
        else:
            pair = None
        if pair is None:
            return line, False
        line, node = pair[0].start_mark.line + 1, pair[1]
    return line, True
