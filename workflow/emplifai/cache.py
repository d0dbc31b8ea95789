"""A content-addressed cache for what is dear: one JSON value a key, in files that are only ever appended to.

Each process appends to a file of its own, so any number of jobs on any number of nodes use one folder without locks,
and a process killed in the middle of a line loses that line only.
"""

import json
import os
import socket
from pathlib import Path
from typing import Any


class Cache:
    """`folder/*.jsonl`, lines of {"key": ..., "value": ...}. Values must be JSON."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._values: dict[str, Any] = {}
        self._read: dict[Path, int] = {}
        self._file = None
        self.refresh()

    def refresh(self) -> None:
        """Read what other processes have appended since."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # still being written, or its writer was killed
                    self._read[path] = self._read.get(path, 0) + len(line)
                    try:
                        row = json.loads(line)
                        self._values[row["key"]] = row["value"]
                    except (ValueError, KeyError, TypeError):
                        continue

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Store a value; it is in the file when this returns."""
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}.jsonl"
            self._file = open(self.folder / name, "a", encoding="utf-8")
        self._values[key] = value
        self._file.write(json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
