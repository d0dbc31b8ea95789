"""A causal language model of transformers with its tokenizer, from disk to memory; each fault in plain words."""

import json
import warnings
from pathlib import Path
from typing import Any

from emplifai import models
from emplifai.backends import memory
from emplifai.errors import UserError
from emplifai.params import Model
from emplifai.records import read_json, write_json

BASE = "base.json"  # in an adapter's folder: which model it was trained on; peft drops fields that it does not know


def load(entry: Model, adapter: Path | None = None, device: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """The model (in eval mode) and tokenizer of an entry of params.models.

    adapter: folder of a LoRA adapter. It is merged into the weights (rounded once, like the weights themselves; the text
    that a bfloat16 model writes may differ from the unmerged one as it differs from float32), except in 4 bits, where
    merging would lose it; either way the model that comes back is transformers' own class.
    device: "cpu", "cuda", "cuda:1", or "auto" to spread over all GPUs; None: a GPU where there is one.
    dtype: instead of the entry's. Nothing is ever downloaded here. Raises UserError for all that a user can mend.
    """
    memory.tune()
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft asks for it
    place = folder(entry)
    check_files(place)
    if adapter is not None:
        check_adapter(adapter, entry)
    device = device or default_device()
    model = _model(entry, place, device, resolve_dtype(dtype or entry.dtype, device))
    if adapter is not None:
        model = _attach(model, adapter, entry)
    model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    return model.eval(), load_tokenizer(entry)


def _contiguous(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The head's input in one piece: for a slice of positions torch would copy the weights of the head for each row, where
    they want no gradient, as after merging (2.6 s instead of 0.03 s a step, Gemma 3 270M, 4 rows on two cores)."""
    return (args[0].contiguous(), *args[1:])


def folder(entry: Model) -> Path:
    """Where an entry's files lie on this machine; a hub model is looked up in the cache of huggingface_hub only."""
    from huggingface_hub import snapshot_download

    place = Path(models.locate(entry.model))
    if place.is_dir():
        return place
    try:
        return Path(snapshot_download(entry.model, revision=entry.revision, allow_patterns=files(entry), local_files_only=True))
    except (OSError, ValueError):  # LocalEntryNotFoundError, HFValidationError
        raise UserError(
            f"{entry.model}: not on this machine in revision {entry.revision or 'main'}; "
            "run `emplifai prefetch` on a machine with network that shares this cache (HF_HOME)"
        ) from None


def files(entry: Model) -> list[str]:
    """Patterns of the files that are fetched of a hub model, and that must be there; code only where its entry trusts it."""
    return ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "tokenizer*", *["*.py"] * entry.trust_remote_code]


def load_tokenizer(entry: Model) -> Any:
    """The tokenizer of an entry; Gemma's vocabulary takes about three seconds."""
    from transformers import AutoTokenizer

    place = folder(entry)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=entry.trust_remote_code, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception for a broken file
        raise _unloadable(entry, place, "tokenizer", error) from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"{entry.model}: its tokenizer has no end-of-text token; set eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(name: str, device: str) -> Any:
    """A torch dtype; "auto" is bfloat16 where the GPU or CPU computes in it, else float32."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    return torch.bfloat16 if _has_bfloat16(device) else torch.float32


def _has_bfloat16(device: str) -> bool:
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "arm_bf16", "bf16"))


def check_files(folder: Path) -> None:
    """Read the headers of a folder's safetensors files: a half-copied file is named before minutes are spent."""
    index = folder / "model.safetensors.index.json"
    named = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else []
    files = [folder / name for name in named] or sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no .safetensors file here; weights in other forms (.bin, .pt, .gguf) are not loaded")
    faults = [f"{path}: {fault}; copy or fetch this file again" for path in files if (fault := _fault(path))]
    if faults:
        raise UserError(*faults)


def _fault(path: Path) -> str | None:
    """What is wrong with a safetensors file (8 bytes length, JSON header, data: huggingface/safetensors format)."""
    if not path.is_file():
        return "missing, though the index names it"
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return f"corrupt: its header should have {length} bytes, the whole file has {size}"
        try:
            header = json.loads(file.read(length))
            end = max((row["data_offsets"][1] for name, row in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return "corrupt: its header is not that of a safetensors file"
    if size != 8 + length + end:
        return f"truncated or corrupt: {size} bytes found, {8 + length + end} expected"
    return None


def describe_base(entry: Model) -> dict[str, Any]:
    """What an adapter says of the model that it belongs to."""
    return {
        "model": entry.model,
        "revision": entry.revision,
        "hub": not Path(models.locate(entry.model)).is_dir(),
        "fingerprint": models.fingerprint(entry.model, entry.revision),
    }


def write_base(adapter: Path, entry: Model) -> None:
    write_json(adapter / BASE, describe_base(entry))


def check_adapter(adapter: Path, entry: Model) -> None:
    """Raises UserError when the folder is no LoRA adapter, is damaged, or names another base than the entry's."""
    adapter = Path(adapter)
    if not (adapter / "adapter_config.json").is_file():
        raise UserError(f"{adapter}: no LoRA adapter here (adapter_config.json); run finetune first, or mend models.*.adapter")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise UserError(f"{adapter}: no adapter_model.safetensors; copy the adapter again, or run finetune again")
    check_files(adapter)
    if not (adapter / BASE).is_file():
        return  # made elsewhere: its shapes are all there is to compare
    told, found = read_json(adapter / BASE), describe_base(entry)
    if told["hub"] == found["hub"] and told["fingerprint"] != found["fingerprint"]:
        raise UserError(
            f"{adapter}: trained on another base: {told['model']} (fingerprint {told['fingerprint'][:12]}), "
            f"not this {entry.model} ({found['fingerprint'][:12]}); name that model, or run finetune again"
        )


def _model(entry: Model, place: Path, device: str, dtype: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    options = {"trust_remote_code": entry.trust_remote_code, "local_files_only": True}
    options |= {"quantization_config": _four_bits(entry)} if entry.load_in_4bit else {}
    options |= {"device_map": device if device == "auto" else {"": device}} if device != "cpu" else {}
    try:
        model, notes = AutoModelForCausalLM.from_pretrained(
            place, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
    except torch.OutOfMemoryError:
        raise UserError(f"{entry.model}: does not fit into this GPU's memory; use a larger one or load_in_4bit: true") from None
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise _unloadable(entry, place, "model", error) from None
    if missing := sorted(notes["missing_keys"]):
        shown = ", ".join(missing[:3])
        raise UserError(
            f"{entry.model}: {len(missing)} weights are not in its files ({shown}, ...); this is no complete causal LM"
        )
    return model


def _four_bits(entry: Model) -> Any:
    """NF4 with double quantisation, as QLoRA (Dettmers et al. 2023, arXiv 2305.14314) has it."""
    import torch

    if not torch.cuda.is_available():
        raise UserError(f"{entry.model}: load_in_4bit needs an NVIDIA GPU; set it to false here")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise UserError("load_in_4bit needs bitsandbytes: pip install 'emplifai[gpu]'") from None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )


def _unloadable(entry: Model, place: Path, what: str, error: Exception) -> UserError:
    text = " ".join(str(error).split())[:300]
    if "Unrecognized configuration class" in text:
        kind = read_json(place / "config.json").get("model_type")
        return UserError(f"{entry.model}: not a causal language model (model_type {kind!r}); name one that writes text")
    if "trust_remote_code" in text:
        return UserError(f"{entry.model}: its code comes with it; read it, then set trust_remote_code: true in its entry")
    return UserError(f"{entry.model}: its {what} cannot be loaded from {place}: {text}; copy or fetch the folder again")


def _attach(model: Any, adapter: Path, entry: Model) -> Any:
    from peft import PeftModel

    try:
        tuned = PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"{adapter}: does not fit {entry.model}; it was made for another base model: {text}") from None
    return tuned.get_base_model() if entry.load_in_4bit else tuned.merge_and_unload()
