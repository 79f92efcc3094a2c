"""The processes of a group of torch.distributed, and what becomes of one that dies."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from kanlib._checks import shown

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


def _telling(function: Function) -> Function:
    """Turn an error of the group into one sentence."""

    @functools.wraps(function)
    def told(self: Processes, *arguments: Any) -> Any:
        try:
            return function(self, *arguments)
        except (RuntimeError, ValueError) as error:  # what torch raises differs by backend
            raise ConnectionError(
                f"process {self.rank} of {self.size} lost the others: one has ended, or did not "
                "answer within the timeout of the group; start all again with resume=True, which "
                "goes on from the last checkpoint, or wait longer with "
                "init_process_group(timeout=...)"
            ) from error

    return cast(Function, told)


class Processes:
    """A group of torch.distributed, as :class:`kanlib.objectives.shares.Shares`.

    Args:
        group: the group; by default all processes.

    Attributes:
        size: number of processes.
        rank: number of this one, from 0.
        first: whether it is the first, which writes files and shows progress.

    Raises:
        TypeError: if the group is none, or does not have this process in it.
        ValueError: if torch.distributed has not been initialised.
    """

    def __init__(self, group: Any = None) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise ValueError(
                "group must be initialised, got none: call torch.distributed.init_process_group() "
                "first, and start the script with torchrun"
            )
        if not (group is None or isinstance(group, dist.ProcessGroup)):
            raise TypeError(
                "group must be a group of torch.distributed with this process in it, got "
                f"{shown(group)}: make one with torch.distributed.new_group()"
            )
        self.group, self.rank = group, dist.get_rank(group)
        self.size, self.first = dist.get_world_size(group), self.rank == 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Processes:
        """Return the same: copies of an objective are shared among the same processes."""
        return self

    @_telling
    def total(self, *parts: Tensor) -> list[Tensor]:
        """Return the sums over all processes, in one message."""
        message = torch.cat([part.detach().flatten() for part in parts])
        dist.all_reduce(message, group=self.group)
        found = message.split([part.numel() for part in parts])
        return [f.view_as(part).to(part.dtype) for f, part in zip(found, parts, strict=True)]

    @_telling
    def stacked(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, of any number in each, one below the other."""
        counts = rows.new_zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        dist.all_reduce(counts, group=self.group)
        padded = rows.new_zeros(int(counts.max()), *rows.shape[1:])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded, group=self.group)
        return torch.cat([part[:count] for part, count in zip(found, counts.tolist(), strict=True)])

    def agreed(self, decide: Callable[[], T]) -> T:
        """Return what a function returns in the first process, or raise what it raises there."""
        found, error = None, None
        if self.first:
            try:
                found = decide()
            except Exception as raised:
                error = raised
        found, error = self._told((found, error))
        if error is not None:
            raise error
        return cast(T, found)

    @_telling
    def _told(self, answer: Any) -> Any:
        """Return the answer of the first process."""
        holder = [answer]
        first = 0 if self.group is None else dist.get_global_rank(self.group, 0)
        dist.broadcast_object_list(holder, src=first, group=self.group)
        return holder[0]

    @_telling
    def difference(self, facts: Mapping[str, int]) -> str:
        """Return the first of some names whose number is not that of all processes, or nothing."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, dict(facts), group=self.group)
        names = dict.fromkeys(name for each in found for name in each)
        return next((k for k in names if len({each.get(k) for each in found}) > 1), "")

    @property
    def device(self) -> torch.device:
        """The device of messages that are no tensors of a network."""
        if "nccl" in dist.get_backend(self.group):
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
