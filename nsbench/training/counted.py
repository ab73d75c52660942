"""What a GPU does in a step, counted without one: kernels, bytes, FLOP, and the memory that a run takes.

A trainer is made on the CPU, then copied with tensors that have shapes and no memory (torch's FakeTensor), all on a CUDA
device. Its steps run as they would there, in seconds, and a dispatch mode counts what they call.

The counts are those of torch's own kernels, which differ a little from version to version; nothing is measured.
"""

from __future__ import annotations

import dataclasses
import io
import math
import pickle
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from nsbench.config.run import Config
from nsbench.contracts import Dataset, Sampler
from nsbench.training.evaluation import GPU_CHUNK
from nsbench.training.trainer import Trainer

CUDA = torch.device("cuda", 0)
ROOM = 1.1  # what the allocator takes for what it is asked for: it rounds up, and leaves gaps
RANKED = 1.25  # memory of a ranking over its budget (tests/pretend/test_ranking.py)

# Operators that start no kernel beside those that make views, and the kernels of those that start more than one (read off
# torch's sources). Sums into rows sort first (nsbench.training.repeatable).
FREE = {
    "empty",
    "empty_strided",
    "empty_like",
    "new_empty",
    "new_empty_strided",
    "detach",
    "alias",
    "lift_fresh",
    "_unsafe_view",
}
KERNELS = {
    **dict.fromkeys(("index_add_", "index_add", "index_put_", "scatter_add_", "scatter_add", "embedding_dense_backward"), 8),
    **dict.fromkeys(("sort", "argsort", "multinomial", "randperm"), 5),
    **dict.fromkeys(("topk", "native_layer_norm_backward"), 3),
    **dict.fromkeys(("cumsum", "index"), 2),
}
READ_ROWS = {"index_select", "embedding", "gather", "index", "take", "searchsorted"}  # of a table, what is asked for alone
ADD_ROWS = {"index_add_", "index_put_", "scatter_add_", "index_copy_", "scatter_"}
MAKE = {"exponential_", "uniform_", "normal_", "random_", "fill_", "zero_", "bernoulli_"}  # write, and read nothing


class Work(NamedTuple):
    """What one call of an operator does."""

    operator: str
    kernels: int
    bytes: int
    flop: int

    def seconds(self, launch: float, bandwidth: float, rate: float) -> float:
        """At least, with so many seconds between two kernels, bytes a second and FLOP a second."""
        return max(self.kernels * launch, self.bytes / bandwidth + self.flop / rate)


class Counted(TorchDispatchMode):
    """All work on CUDA tensors inside, and the most memory that tensors made inside take at once."""

    def __init__(self, contents: bool = True) -> None:
        super().__init__()
        self.contents = contents  # of tensors; else they have shapes alone
        self.work: list[Work] = []
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}  # by address of the storage
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if not self.contents:  # torch draws no shapes with a generator
            args = tuple(None if isinstance(x, torch.Generator) else x for x in args)
            kwargs = {key: None if isinstance(x, torch.Generator) else x for key, x in kwargs.items()}
        result = function(*args, **kwargs)
        given, made = _on_cuda((args, kwargs)), _on_cuda(result)
        self._remember(made)
        is_view = not function._schema.is_mutable and any(x.alias_info is not None for x in function._schema.returns)
        if (made or given) and not (is_view or name in FREE or name.startswith("sym_") or function.namespace == "prim"):
            formula = flop_registry.get(function.overloadpacket)  # of products; what else is computed, bytes take longer for
            flop = 0 if formula is None else formula(*args, **kwargs, out_val=result)
            self.work.append(Work(name, KERNELS.get(name, 1), _moved(name, given, made), flop))
        return result

    def _remember(self, made: list[Tensor]) -> None:
        for x in made:
            memory = x.untyped_storage()
            reference = StorageWeakRef(memory)
            if reference.cdata not in self.alive:
                self.alive[reference.cdata] = reference, memory.nbytes()
        if made:
            self.alive = {key: kept for key, kept in self.alive.items() if not kept[0].expired()}
            self.most = max(self.most, self.now)

    @property
    def now(self) -> int:
        """Bytes that are in use."""
        return sum(size for _, size in self.alive.values())

    @property
    def kernels(self) -> int:
        return sum(work.kernels for work in self.work)

    @property
    def bytes(self) -> int:
        return sum(work.bytes for work in self.work)

    @property
    def flop(self) -> int:
        return sum(work.flop for work in self.work)


def _on_cuda(found: Any) -> list[Tensor]:
    return [x for x in tree_leaves(found) if isinstance(x, Tensor) and x.device.type == "cuda"]


def _size(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _moved(name: str, given: list[Tensor], made: list[Tensor]) -> int:
    """Bytes that a kernel reads and writes, each once."""
    inputs, results = {id(x): _size(x) for x in given}, {id(x): _size(x) for x in made}
    if name in MAKE:
        return sum(results.values())
    if name in READ_ROWS:
        return 2 * sum(results.values()) + sum(map(_size, given[1:]))
    if name in ADD_ROWS:  # what is added is read; the rows that it goes to are read and written
        return 3 * _size(given[-1]) + sum(map(_size, given[1:-1]))
    if name == "_fused_adam_":  # of four lists, three are written to
        return sum(inputs.values()) + 3 * sum(inputs.values()) // 4
    in_place = sum(size for key, size in results.items() if key in inputs)
    return sum(inputs.values()) + sum(size for key, size in results.items() if key not in inputs) + in_place


class _Copying(pickle.Pickler):
    """Writes all of a trainer but the contents of its tensors; a device becomes CUDA."""

    def reducer_override(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return _shaped, (tuple(x.shape), x.stride(), x.dtype, isinstance(x, nn.Parameter), x.requires_grad)
        if isinstance(x, torch.Generator):
            return torch.Generator, (CUDA,)
        return (torch.device, ("cuda", 0)) if isinstance(x, torch.device) else NotImplemented


def _shaped(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, parameter: bool, learns: bool) -> Tensor:
    x = torch.empty_strided(shape, stride, dtype=dtype, device=CUDA)
    return nn.Parameter(x, requires_grad=learns) if parameter else x.requires_grad_(learns)


class Shadow:
    """A trainer whose tensors have no memory, on a CUDA device that need not be there."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        if hasattr(config.sampler_options, "pretrain_epochs"):  # its state is as large after one
            config = dataclasses.replace(
                config, sampler_options=dataclasses.replace(config.sampler_options, pretrain_epochs=1)
            )
        original = Trainer(config, dataset)
        original.pretrain()
        file = io.BytesIO()
        _Copying(file).dump(original)
        self.shapes, self.counted = FakeTensorMode(), Counted(contents=False)
        with self.shapes, self.counted:
            self.trainer: Trainer = pickle.loads(file.getvalue())
        self.standing = self.counted.now  # bytes of what it holds

    def step(self, number: int) -> list[Work]:
        """What a step with that number does; not the first, which looks at what was drawn."""
        trainer, began = self.trainer, len(self.counted.work)
        with self.shapes, self.counted, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.step_count = number
            if isinstance(trainer.sampler, Sampler):
                trainer.sampler.start_epoch(trainer.epoch)
            rows = torch.empty(trainer.protocol.batch, dtype=torch.int64, device=CUDA)
            trainer.advance(trainer.graph.positives(rows, trainer.fixed_side()))
        return self.counted.work[began:]


def gpu_memory(config: Config, dataset: Dataset) -> int:
    """Bytes that a run takes of a GPU beside CUDA's own, at most.

    Steps at the beginning and at the end (samplers warm up, and take turns with the model); the memory of CUDA graphs, which
    is not given back while ranking takes its own; copies of the best model, and of the sampler, which a diagnosis puts back.
    """
    if config.replayed is not None:
        raise ValueError("it replays another run, which is made again beside it")
    shadow = Shadow(config, dataset)
    for number in (1, 2, config.protocol.steps - 2, config.protocol.steps - 1):  # the first looks at values
        shadow.step(number)
    trainer = shadow.trainer
    copies = trainer.sampler_bytes() + sum(_size(x) for x in trainer.model_state().values() if isinstance(x, Tensor))
    scores = 4 * dataset.num_entities * 2 * len(dataset.test) * (len(trainer.scoring().tables) ** 2 + 2)
    return math.ceil(ROOM * (shadow.counted.most + copies + RANKED * min(GPU_CHUNK, scores)))
