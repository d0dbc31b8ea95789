"""Embeddings of the references on disk: the one text that every model's replies are compared with, in every run."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emplifai.records import sha256

if TYPE_CHECKING:
    from torch import Tensor

MOST_BYTES = 4 * 2**30  # a larger store is not added to: reading it back would cost more than it saves


class Embeddings:
    """`folder/*.safetensors`, each written once: {sha256 of a text: (tokens, width + 1)}, the last column the weights.

    In fp32: half precision would not keep scores to 1e-5.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._where: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._index(path)

    def _index(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            file = safe_open(path, "pt")
            self._where |= dict.fromkeys(file.keys(), file)
        except (SafetensorError, OSError):
            print(f"warning: {path} cannot be read and is passed over; it may be deleted", file=sys.stderr)

    def __contains__(self, text: str) -> bool:
        return sha256(text) in self._where

    def get(self, text: str) -> tuple["Tensor", "Tensor"]:
        """Unit vectors (tokens, width) and weights (tokens,) of a text."""
        key = sha256(text)
        both = self._where[key].get_tensor(key)
        return both[:, :-1], both[:, -1]

    def add(self, texts: dict[str, tuple["Tensor", "Tensor"]]) -> None:
        """Keep texts that are not there yet, in a file of their own."""
        import torch
        from safetensors.torch import save_file

        new = {sha256(t): torch.cat([v, w[:, None]], 1).cpu() for t, (v, w) in texts.items() if t not in self}
        size = sum(v.nbytes for v in new.values()) + sum(p.stat().st_size for p in self.folder.glob("*.safetensors"))
        if not new or size > MOST_BYTES:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{sha256(''.join(sorted(new)))[:32]}.safetensors"
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            save_file(new, partial)
            partial.chmod(0o644)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        self._index(path)
