"""Load samples for training, each a function of (seed, position), so that resuming is exact.

Position p counts samples over the whole run and all processes.  It determines which image is taken (epoch p // n,
entry p % n of that epoch's permutation) and the random numbers of its augmentation; neither the number of
workers nor that of processes, nor where a run was interrupted, changes what sample p is.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList, DatasetMapper
from detectron2.data.build import trivial_batch_collator
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ..errors import ConfigError, DatasetError, LesaError, described
from ..modeling.build import instantiate_part
from .pictures import PictureError, RefusedPictureError, check_header, check_picture

Mapper = Callable[[dict], dict | None]

Key = tuple[int, int]
"""(position, index of the image)."""


class PositionBatchSampler(Sampler[list[Key]]):
    """Yield the micro-batches of this process, without end.

    Micro-step m covers the positions [m·W·b, (m+1)·W·b) for W processes of b images each, rank r taking the
    r-th chunk of b.  A process that accumulates over W micro-steps thus sees what W processes see in one.

    Args:
        num_images: n, images in the data set.
        batch_size: b, images of one process in one micro-step.
        seed: of the permutations.
        first_step: micro-step to start from.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, first_step: int = 0) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.first_step = first_step
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of one micro-batch after another."""
        for step in itertools.count(self.first_step):
            first = (step * self.world_size + self.rank) * self.batch_size
            yield [(position, self._index(position)) for position in range(first, first + self.batch_size)]

    def _index(self, position: int) -> int:
        epoch, entry = divmod(position, self.num_images)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.num_images)
        return int(self._order[entry])


class CheckedMapper:
    """Check the picture of a record before a mapper reads it, and name the file that a mapper cannot read.

    detectron2's DatasetMapper reads files of any kind: it waits at a pipe for ever, clips 16 bits to white, and its
    errors do not say which file they are about.  Of the records of other mappers, which need not read pictures, only
    files are refused that are harmful to any reader of pictures.

    Args:
        mapper: dict -> model input or None.  One that checks its files itself, or reads pictures of more than 8 bits
            by its own means, says so by an attribute ``checks_files = True``.

    Raises:
        DatasetError: names the file, the reason and what to do.
    """

    def __init__(self, mapper: Mapper) -> None:
        self.mapper = mapper
        self.is_detectron2s = isinstance(mapper, DatasetMapper)
        self.checks_files = getattr(mapper, "checks_files", False)

    def __call__(self, record: dict) -> dict | None:
        """Map a record."""
        files = _files(record)
        if files and not self.checks_files:
            self._check(files[0])
        try:
            return self.mapper(record)
        except LesaError:
            raise
        except Exception as error:
            if (explained := self._explained(error, files)) is None:
                raise
            raise explained from error

    def _check(self, file: str) -> None:
        try:
            check_header(file)
        except PictureError as error:
            if self.is_detectron2s or isinstance(error, RefusedPictureError):
                raise

    def _explained(self, error: Exception, files: Sequence[str]) -> DatasetError | None:
        """Return an error that names the file for which the mapper failed; None if that is not about a file."""
        names = " or ".join(files) or "a record"
        if isinstance(error, SizeMismatchError):
            return DatasetError(f"{files[0]} is not the picture that was annotated: {error}")
        if files and not self.checks_files:
            try:
                check_picture(files[0])
            except PictureError as found:
                more = "" if self.is_detectron2s else f" (the mapper failed with {described(error)})"
                return DatasetError(f"{found}{more}")
        if isinstance(error, (OSError, SyntaxError)):
            return DatasetError(f"{names} cannot be read: {error}; replace or remove it")
        return None


def _files(record: Any) -> list[str]:
    """Return the files of a record, its picture first; none for a record that is not about files."""
    if not isinstance(record, Mapping) or "file_name" not in record:
        return []
    maps = [value for key, value in record.items() if key.endswith("_file_name") and value]
    return [str(file) for file in (record["file_name"], *maps)]


def checked(mapper: Mapper) -> CheckedMapper:
    """Return a mapper that names the files that it cannot read."""
    return mapper if isinstance(mapper, CheckedMapper) else CheckedMapper(mapper)


def build_loader(node: Any) -> Iterable[Any]:
    """Build the loader that a config describes, of whatever kind, with its mapper :func:`checked`.

    Raises:
        ConfigError: the arguments do not fit.
        DatasetError: while it loads; names the file that cannot be read.
    """
    if not isinstance(node, Mapping) or node.get("mapper") is None:
        return instantiate_part("data loader", node)
    mapper = instantiate_part("mapper", node["mapper"])
    return instantiate_part("data loader", {**node, "mapper": checked(mapper)})


class SeededDataset(Dataset[dict]):
    """Map records to samples, with all generators of random numbers seeded by the position.

    A record for which the mapper returns None is replaced by another one, which follows from the position too.

    Args:
        records: detectron2's dataset dicts.
        mapper: dict -> model input, or None for a record that cannot be used.
        seed: of the samples.

    Raises:
        DatasetError: names the file that cannot be read; or the mapper returns None for every record.
    """

    def __init__(self, records: Sequence[dict], mapper: Mapper, seed: int) -> None:
        self.records, self.seed = records, seed
        self.mapper = PicklableWrapper(checked(mapper))  # a lambda can be sent to spawned processes as well

    def __getitem__(self, key: Key) -> dict:
        """Return the sample at a position, made from the image with the given index."""
        position, index = key
        seed = mix_seed(self.seed, position)
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # the CPU's alone: workers must not wake a GPU
        sample = self._sample(index)
        if sample is None:
            others = map(self._sample, np.random.default_rng(seed).permutation(len(self.records)).tolist())
            sample = next((other for other in others if other is not None), None)
        if sample is None:
            raise DatasetError(
                f"dataloader.train.mapper returns None for each of the {len(self.records)} images"
            )
        return sample

    def _sample(self, index: int) -> dict | None:
        try:
            return self.mapper(self.records[index])
        except DatasetError as error:
            raise DatasetError(f"{error}; then continue with --resume") from error


def mix_seed(*numbers: int) -> int:
    """Return one 32-bit seed that several non-negative numbers determine."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def build_train_loader(
    dataset: Sequence[dict],
    *,
    mapper: Mapper,
    total_batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    accumulate: int = 1,
    first_iter: int = 0,
    stacked: bool = False,
) -> DataLoader:
    """Build an endless loader of micro-batches, each a list of mapped dicts, or one dict of stacked tensors.

    Args:
        dataset: records, as detectron2's dataset dicts.
        mapper: dict -> model input.
        total_batch_size: images in an optimizer step, over all processes and micro-batches.
        num_workers: processes that load.
        seed: of order and augmentation.
        accumulate: micro-batches in an optimizer step.
        first_iter: optimizer steps already done.
        stacked: stack the tensors of a batch; needs images of one size.

    Raises:
        ConfigError: an empty data set, or a batch that cannot be split evenly.
    """
    if not len(dataset):
        raise ConfigError("the training data set has no image to learn from; check its annotations")
    parts = comm.get_world_size() * accumulate
    if total_batch_size < 1 or total_batch_size % parts:
        raise ConfigError(
            f"dataloader.train.total_batch_size={total_batch_size} cannot be split evenly over "
            f"{comm.get_world_size()} process(es) x train.accumulate={accumulate}; use a multiple of {parts}"
        )
    images = DatasetFromList(list(dataset), copy=False)
    sampler = PositionBatchSampler(len(images), total_batch_size // parts, seed, first_iter * accumulate)
    return DataLoader(
        SeededDataset(images, mapper, seed),
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=default_collate if stacked else trivial_batch_collator,
        worker_init_fn=_one_thread,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
