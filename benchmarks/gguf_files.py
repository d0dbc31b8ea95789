"""The embedded model's weights as files that llama.cpp reads: bfloat16, as transformers computes with, and 8 bits."""

from importlib import import_module
from pathlib import Path
from typing import Any

KINDS = {"bf16": 32, "q8_0": 7}  # llama.cpp's numbers of file types


def make(package: str, folder: Path) -> list[Path]:
    """package: pip:PACKAGE with a 4-bit GGUF; its weights, decoded, are those of the model that transformers loads."""
    given = import_module(package.removeprefix("pip:").replace("-", "_")).assemble(folder / "given.gguf")
    made = [_as(kind, given, folder / f"{kind}.gguf") for kind in KINDS]
    given.unlink()
    return made


def _as(kind: str, given: Path, target: Path) -> Path:
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

    read, wanted = GGUFReader(given), GGMLQuantizationType[kind.upper()]
    out = GGUFWriter(target, read.fields["general.architecture"].contents())
    out.add_file_type(KINDS[kind])
    for name, field in read.fields.items():
        if not name.startswith(("GGUF.", "general.architecture", "general.file_type")):
            array = field.types[0] == GGUFValueType.ARRAY
            out.add_key_value(name, field.contents(), field.types[0], field.types[-1] if array else None)
    for tensor in read.tensors:
        values: Any = quants.dequantize(tensor.data, tensor.tensor_type)
        small = tensor.tensor_type == GGMLQuantizationType.F32  # norms stay as they are
        as_bf16 = quants.quantize(values, GGMLQuantizationType.BF16)
        rounded = quants.dequantize(as_bf16, GGMLQuantizationType.BF16)
        out.add_tensor(tensor.name, values if small else quants.quantize(rounded, wanted), raw_dtype=None if small else wanted)
    for write in (out.write_header_to_file, out.write_kv_data_to_file, out.write_tensors_to_file, out.close):
        write()
    return target
