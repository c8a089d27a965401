"""How much memory a computation holds at its fullest, counted as its tensors come and go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch's __init_subclass__
    """Within it, `peak` becomes the most bytes of tensors that were made within it and alive at once.

    Works on the meta device as on any other. What a kernel needs for itself and frees before it returns is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, tuple[Any, int]] = {}  # a StorageWeakRef, and bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = {_key(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        outcome = func(*args, **(kwargs or {}))
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        for tensor in tree_leaves(outcome):
            if isinstance(tensor, torch.Tensor) and _key(tensor) not in before:  # views and in-place hold no memory
                storage = tensor.untyped_storage()
                reference: Any = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._alive[_key(tensor)] = reference, storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return outcome


class FlashAttention(TorchFunctionMode):
    """Within it, attention holds what fused kernels hold: the outcome and one sum for each row, no matrix of scores."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs or {})
        query, value = given["query"], given["value"]  # [B, heads, tokens, features]
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        outcome = query.new_empty((*query.shape[:-1], value.shape[-1]))
        del sums
        return outcome


def peak_bytes(compute: Callable[[], object]) -> int:
    """The peak of one call, its outcome included, its inputs not."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(FlashAttention())
        memory = stack.enter_context(LiveMemory())
        compute()
    peak: int = memory.peak
    return peak


def _key(tensor: torch.Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key
