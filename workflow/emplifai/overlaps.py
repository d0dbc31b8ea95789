"""What only shows between dialogues: ids and texts that come twice, situations at odds, texts shared by situations.

Ids and texts are kept as 64-bit hashes in files (a chance of 3 in 10^8 of one false match among a million), so that a
dialogue costs a few dozen bytes of memory and only while a check runs.
"""

from array import array
from hashlib import blake2b
from pathlib import Path
from typing import Any

from emplifai.japanese import fold

SHARED = 20  # characters (folded) from which a text that two situations share is no chance


def key(text: str) -> int:
    """64-bit hash of a text."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def words(record: dict[str, Any]) -> str:
    """What is said in a dialogue: the text that duplicates are looked for in."""
    return "\n".join(turn["text"] for turn in record["turns"])


class Columns:
    """Numbers of each row, a file a column; loaded one at a time."""

    def __init__(self, folder: Path, **types: str):
        self._files = {name: open(folder / f"column-{name}", "w+b") for name in types}
        self._buffers = {name: array(code) for name, code in types.items()}

    def append(self, **values: int) -> None:
        for name, value in values.items():
            buffer = self._buffers[name]
            buffer.append(value)
            if len(buffer) == 8192:
                buffer.tofile(self._files[name])
                del buffer[:]

    def load(self, name: str):
        """The column as a numpy array."""
        import numpy as np

        buffer, file = self._buffers[name], self._files[name]
        file.seek(0, 2)
        buffer.tofile(file)
        del buffer[:]
        file.flush()
        file.seek(0)
        return np.fromfile(file, np.dtype(buffer.typecode))

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def leaders(keys, alive):
    """For each row the first living row with the same key, or -1 if that is itself or there is none."""
    import numpy as np

    rows = np.arange(len(keys))
    order = np.lexsort((rows, ~alive, keys))
    firsts = np.ones(len(keys), bool)
    firsts[1:] = keys[order][1:] != keys[order][:-1]
    leader = np.empty(len(keys), np.int64)
    leader[order] = order[firsts][np.cumsum(firsts) - 1]
    leader[(leader == rows) | ~alive[leader]] = -1
    return leader


class Overlaps:
    """Collects the good dialogues' hashes; `find` says which to reject for the sake of others."""

    def __init__(self, folder: Path):
        self.count = 0
        self._rows = Columns(folder, id="Q", situation="Q", meaning="Q", words="Q")
        self._shared = Columns(folder, text="Q", row="L")

    def add(self, record: dict[str, Any], said: list[str]) -> None:
        """said: the texts of its turns, folded."""
        situation, told = key(record["situation_id"]), fold(record["situation"])
        self._rows.append(
            id=key(record["dialogue_id"]),
            situation=situation,
            meaning=key(f"{record['emotion']}\n{told}"),
            words=key("\n".join(said)),
        )
        for text in (*said, told):
            if len(text) >= SHARED:
                self._shared.append(text=key(text), row=self.count)
        self.count += 1

    def find(self) -> dict[str, Any]:
        """{fault: for each dialogue the earlier one that it is at odds with, or -1}."""
        import numpy as np

        alive = np.ones(self.count, bool)
        faults = {"dialogue_id": leaders(self._rows.load("id"), alive)}
        situation = leaders(self._rows.load("situation"), alive)
        meaning = self._rows.load("meaning")
        situation[(situation >= 0) & (meaning == meaning[situation])] = -1
        faults["situation_id"] = situation
        alive = (faults["dialogue_id"] < 0) & (situation < 0)
        faults["words"] = leaders(self._rows.load("words"), alive)
        return faults

    def situations(self, alive) -> int:
        import numpy as np

        return len(np.unique(self._rows.load("situation")[alive]))

    def shared(self, alive) -> list[list[int]]:
        """Rows that hold the same text in different situations: for each such text the first row of each situation."""
        import numpy as np

        text, row = self._shared.load("text"), self._shared.load("row").astype(np.int64)
        order = np.lexsort((row, text))
        order = order[alive[row[order]]]
        text, row = text[order], row[order]
        situation = self._rows.load("situation")[row]
        starts = np.flatnonzero(np.r_[True, text[1:] != text[:-1]]) if len(text) else np.zeros(0, int)
        sizes = np.diff(np.r_[starts, len(text)])
        odd = situation != np.repeat(situation[starts], sizes)
        several = np.add.reduceat(odd, starts) > 0 if len(starts) else np.zeros(0, bool)
        groups = []
        for start, size in zip(starts[several].tolist(), sizes[several].tolist(), strict=True):
            firsts = np.unique(situation[start : start + size], return_index=True)[1]
            groups.append(sorted(row[start + firsts].tolist()))
        return sorted(groups)

    def close(self) -> None:
        self._rows.close()
        self._shared.close()
