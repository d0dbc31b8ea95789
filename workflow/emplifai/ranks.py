"""Training in several processes of one node, a GPU each, started as torchrun does (torch.distributed.elastic).

Each process computes its share of every batch; gradients are added up, so all take the same steps and end in the same weights as
one process whose batch is computed in that many more parts. Without CUDA the processes share the processor (gloo).
"""

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from emplifai.errors import UserError

T = TypeVar("T")


def number() -> int:
    """This process's rank; 0 where there is only one."""
    return int(os.environ.get("RANK", 0)) if started() else 0


def count() -> int:
    return int(os.environ["WORLD_SIZE"]) if started() else 1


def started() -> bool:
    """Whether this process is one of several that launch() began."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def device() -> str | None:
    """This process's own GPU; None: let the model's loader choose."""
    import torch

    return f"cuda:{os.environ['LOCAL_RANK']}" if started() and torch.cuda.is_available() else None


def mine(parts: Sequence[T]) -> Sequence[T]:
    """This process's share: every count-th part."""
    return parts[number() :: count()]


def gathered(value: T) -> list[T]:
    """The value of each process, by rank."""
    if not started():
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def add_gradients(parameters: Iterable[Any]) -> None:
    """Give every process the sum of all processes' gradients; one that computed nothing has zeros."""
    if not started():
        return
    import torch
    import torch.distributed as dist

    parameters = list(parameters)
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = gradient.view_as(p)


def launch(processes: int, work: Callable[..., None], *args: Any) -> None:
    """work(*args) in each of the processes. Raises UserError for what one of them raised, or what killed it."""
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # _fault says it
    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise UserError(f"finetune.gpus: {processes}, but this {'job' if 'SLURM_JOB_ID' in os.environ else 'machine'} has {gpus}")
    print(f"finetune: {processes} processes, {'a GPU each' if gpus else 'without a GPU, on the processor'}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        where = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "127.0.0.1", "run_id": Path(folder).name}
        config = LaunchConfig(1, 1, processes, max_restarts=0, logs_specs=DefaultLogsSpecs(log_dir=folder), **where)
        try:
            elastic_launch(config, _begin)(folder, work, args)
        except ChildFailedError as error:
            raise _fault(processes, Path(folder), *error.get_first_failure()) from None


def _begin(folder: str, work: Callable[..., None], args: tuple) -> None:
    """In a process of its own: join the others, work; leave a UserError's faults where launch() finds them."""
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group("gloo")
    try:
        work(*args)
        dist.barrier()
    except UserError as error:
        Path(folder, f"{number()}.json").write_text(json.dumps(error.faults), "utf-8")
        sys.exit(2)
    dist.destroy_process_group()


def _fault(processes: int, folder: Path, rank: int, failure: Any) -> Exception:
    told = {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))}
    if told:
        faults = list(next(iter(told.values())))
        return UserError(*(faults if len(told) == processes else [f"{f} (process {rank} of {processes})" for f in faults]))
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        return UserError(
            f"finetune: process {rank} of {processes} was killed by {name}, most often for memory: ask for more, raise "
            "finetune.accumulation or set gradient_checkpointing: true; the same command goes on from the last checkpoint"
        )
    stack = (failure.error_file_data.get("message") or {}).get("extraInfo", {}).get("py_callstack", failure.message)
    return RuntimeError(f"finetune: process {rank} of {processes} failed\n{stack}")
