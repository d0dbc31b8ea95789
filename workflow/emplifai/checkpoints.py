"""Where a training run stands, on disk: a run that was killed goes on from there to the same weights.

What a finished run ended in stays there too, like a generated reply: the same training is not done twice.
"""

import sys
from pathlib import Path
from typing import Any

from emplifai.records import atomic


class Checkpoints:
    """One file in a folder that belongs to these very settings, data and base model (see `key` in finetune)."""

    def __init__(self, folder: Path):
        self.path = Path(folder) / "state.pt"

    def save(self, state: dict[str, Any]) -> None:
        import torch

        with atomic(self.path, "wb") as file:
            torch.save(state, file)

    def load(self) -> dict[str, Any] | None:
        """The last state, None if there is none or it cannot be read (then training starts anew, and says so)."""
        import torch

        if not self.path.is_file():
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # zip, pickle and torch raise many kinds for a damaged file
            print(f"{self.path}: unreadable checkpoint ({type(error).__name__}); training starts anew", file=sys.stderr)
            return None
