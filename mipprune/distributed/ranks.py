"""The processes that train together: one, or as many as torchrun started.

torchrun says by environment variables who is who. With one process nothing here communicates.
Collectives must be called by all ranks in the same order.
"""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from formulations.arrays import BoolArray
from formulations.errors import InputError


class Ranks:
    """One process among those of the run.

    Parameters
    ----------
    rank, world : int
        Its number, and how many there are.
    local : int
        Its number on its machine: of its GPU.
    restarted : bool
        Whether torchrun started the processes anew after a failure.
    """

    def __init__(
        self, rank: int = 0, world: int = 1, local: int = 0, restarted: bool = False
    ) -> None:
        self.rank, self.world, self.local, self.restarted = rank, world, local, restarted

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of ``count`` things are this rank's, of equal parts."""
        size = count // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace a tensor by its sum over the ranks; the tensor."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace a tensor by its mean over the ranks; the tensor."""
        return self.sum_(tensor).div_(self.world) if self.world > 1 else tensor

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any rank says so."""
        if self.world == 1:
            return flag
        return bool(self.sum_(torch.tensor(int(flag), device=device)) > 0)

    def mask_of_first(self, kept: BoolArray, device: torch.device) -> BoolArray:
        """The first rank's mask, for decisions that rounding could make different elsewhere.

        Parameters
        ----------
        kept : (n,) bool array
            This rank's.
        device : torch.device
            Over which the ranks communicate.
        """
        if self.world == 1:
            return kept
        tensor = torch.from_numpy(kept.astype(np.uint8)).to(device)
        dist.broadcast(tensor, 0)
        return tensor.cpu().numpy().astype(bool)

    def align(self, network: nn.Module) -> None:
        """Give every rank the first one's weights and BatchNorm statistics."""
        if self.world > 1:
            with torch.no_grad():
                for tensor in network.state_dict().values():
                    dist.broadcast(tensor, 0)


def join_ranks(device: str) -> Ranks:
    """Join the other processes that torchrun started, if it did.

    Parameters
    ----------
    device : str
        As configured: auto, cpu, cuda; one device by its number for a single process only.

    Raises
    ------
    InputError
        If ``device`` cannot serve several processes: torchrun gives every process a GPU of its own.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks()
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device={device} names one device for {world} processes: device=cuda")
    local = int(os.environ["LOCAL_RANK"])
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu and local >= torch.cuda.device_count():
        raise InputError(
            f"torchrun started process {local + 1} on a machine with {torch.cuda.device_count()} "
            "GPUs: --nproc-per-node must not be more"
        )
    if on_gpu:
        torch.cuda.set_device(local)
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if not dist.is_initialized():
        store, rank, world = next(rendezvous("env://"))
        # processes that are started anew may find the old ones' addresses in the store
        store = PrefixStore(f"attempt {attempt}", store)
        backend = "nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    return Ranks(dist.get_rank(), world, local, restarted=attempt > 0)
