"""CSV files in tests: written from tuples, read as rows."""

import csv
from pathlib import Path


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pick(table: list[dict], **where: str) -> dict:
    found = [row for row in table if all(row[k] == v for k, v in where.items())]
    assert len(found) == 1, f"{where}: {len(found)} rows"
    return found[0]


def write(path: Path, header: str, lines: list[tuple]) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, line)) for line in lines)]) + "\n", "utf-8")
    return path
