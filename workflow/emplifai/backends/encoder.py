"""Texts to token embeddings: any encoder or decoder that transformers loads, cut at a hidden layer."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emplifai import models
from emplifai.backends import memory, norms
from emplifai.errors import UserError
from emplifai.progress import Progress
from emplifai.statistics.matching import padded

if TYPE_CHECKING:
    from torch import Tensor

CPU_TOKENS = 768  # a batch that stays in a processor's cache; larger ones were measured slower
POSITIONS_FROM_2 = ("roberta", "camembert", "longformer", "mpnet")  # number their positions from padding_idx + 1


class Encoder:
    """A model cut to `layer` layers, loaded once.

    Every batch has a shape that follows from the longest text's padded length alone, with empty rows if need be: on one
    machine a text's embedding is the same, to the last bit on the CPUs tried, whatever else is encoded with it.
    """

    def __init__(self, name: str, layer: int, dtype: str = "float32", batch_tokens: int = 8192, revision: str | None = None):
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch_tokens = batch_tokens if self.device == "cuda" else min(batch_tokens, CPU_TOKENS)
        self.tokenizer, model = _load(models.locate(name), revision, getattr(torch, dtype))
        self.limit = token_limit(self.tokenizer, model.config)
        self.model = cut(model, layer, name).to(self.device).eval()
        norms.in_blocks(self.model)
        special = (getattr(self.tokenizer, f"{kind}_token_id", None) for kind in ("cls", "sep", "bos", "eos"))
        self.unweighted = {token for token in special if token is not None}

    def tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Token ids of each text, and whether it was cut at the encoder's limit."""
        options = _space_before_first_word(self.tokenizer)
        ids = [self.tokenizer.encode(text.strip(), verbose=False, **options) for text in texts]
        long = [self.limit is not None and len(row) > self.limit for row in ids]
        for k in (k for k, over in enumerate(long) if over):
            ids[k] = self.tokenizer.encode(texts[k].strip(), truncation=True, max_length=self.limit, **options)
        return ids, long

    def encode(self, ids: Sequence[list[int]]) -> tuple[list["Tensor"], list["Tensor"]]:
        """Unit vectors (tokens, width) in fp32 and weights (tokens,): 0 for the tokens that open and close a text."""
        import torch

        out: list[Any] = [None] * len(ids)
        with torch.inference_mode(), Progress("bertscore: encode", sum(map(len, ids)), "tokens") as progress:
            for length, rows, batch in batches([len(row) for row in ids], self.batch_tokens):
                hidden = self._forward([ids[k] for k in batch], rows, length)
                for row, k in enumerate(batch):
                    out[k] = hidden[row, : len(ids[k])].clone()
                progress.add(sum(len(ids[k]) for k in batch))
        weights = [torch.tensor([float(t not in self.unweighted) for t in row], device=self.device) for row in ids]
        return out, weights

    def _forward(self, ids: list[list[int]], rows: int, length: int) -> "Tensor":
        import torch

        pad = self.tokenizer.pad_token_id or 0
        tokens = torch.full((rows, length), pad)
        mask = torch.zeros((rows, length), dtype=torch.long)
        mask[:, 0] = 1  # a row of nothing but padding would be a softmax over nothing
        for row, text in enumerate(ids):  # always on the right, as bert-score does, whatever the tokenizer is set to
            tokens[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        try:
            hidden = self.model(tokens.to(self.device), attention_mask=mask.to(self.device))[0]
        except torch.cuda.OutOfMemoryError:
            raise UserError(f"bertscore: out of GPU memory; set bertscore.batch_tokens below {self.batch_tokens}") from None
        return torch.nn.functional.normalize(hidden.float(), dim=-1)


def batches(lengths: Sequence[int], batch_tokens: int) -> list[tuple[int, int, list[int]]]:
    """(padded length, rows, indices) of batches, longest first: a batch too large for memory fails at once."""
    groups = defaultdict(list)
    for k, length in enumerate(lengths):
        groups[padded(length)].append(k)
    found = []
    for length, members in sorted(groups.items(), reverse=True):
        rows = max(1, batch_tokens // length)
        found += [(length, rows, members[a : a + rows]) for a in range(0, len(members), rows)]
    return found


def recommended_layer(name: str) -> int:
    """The layer that bert-score recommends for a hub model, from its table, which has some without their owner."""
    from bert_score.utils import model2layers

    known = next((n for n in (name, name.rpartition("/")[2]) if n in model2layers), None)
    if known is None:
        raise UserError(f"bertscore.layer: bert-score recommends none for {name!r}; set the number of a hidden layer")
    return model2layers[known]


def token_limit(tokenizer: Any, config: Any) -> int | None:
    """Most tokens of a text: the smaller of what tokenizer and model allow; None: no limit (relative positions)."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions and any(kind in config.model_type for kind in POSITIONS_FROM_2):
        positions -= (config.pad_token_id or 0) + 1
    known = [n for n in (tokenizer.model_max_length, positions) if n and 0 < n < 10**9]  # unset is 1e30
    return min(known, default=None)


def cut(model: Any, layer: int, name: str) -> Any:
    """The model without the layers above `layer`; of an encoder-decoder only the encoder.

    A final norm stays where it is, on the last layer kept: so does bert-score.
    """
    import torch

    if hasattr(model, "decoder") and hasattr(model, "encoder"):
        model = model.encoder
    count = next((n for key in ("num_hidden_layers", "n_layers", "num_layers") if (n := getattr(model.config, key, None))), None)
    if not count or layer > count:
        raise UserError(f"bertscore.layer: {name} has {count} layers, found {layer}")
    if hasattr(model, "n_layers"):  # XLM
        model.n_layers = layer
        return model
    for module in model.modules():
        for key, child in module.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == count:
                setattr(module, key, child[:layer])
                return model
    for module in model.modules():  # ALBERT runs one layer many times
        if hasattr(module, "albert_layer_groups"):
            module.config.num_hidden_layers = layer
            return model
    raise UserError(f"bertscore.model: {name}: cannot tell the layers of a {type(model).__name__}; choose another encoder")


def _load(place: str, revision: str | None, dtype: Any) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    memory.tune()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
        return tokenizer, AutoModel.from_pretrained(place, revision=revision, dtype=dtype)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"bertscore.model: {place} cannot be loaded: {reason}; want a folder or hub model of transformers"
        ) from None


def _space_before_first_word(tokenizer: Any) -> dict[str, bool]:
    """GPT-2 and RoBERTa write a word at the start otherwise than inside a text; bert-score asks for the latter."""
    from transformers import GPT2Tokenizer, RobertaTokenizer

    return {"add_prefix_space": True} if isinstance(tokenizer, GPT2Tokenizer | RobertaTokenizer) else {}
