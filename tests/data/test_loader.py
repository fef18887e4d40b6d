import itertools
import pickle
import random

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import DataLoader

from lesa_d2.data.loader import PositionBatchSampler, build_train_loader, mix_seed
from lesa_d2.errors import ConfigError, DatasetError


def mapper(record):
    """Keeps the image's number and random numbers of its augmentation."""
    return {"number": record["number"], "draws": (np.random.uniform(), random.random())}


IMAGES = [{"number": number} for number in range(5)]


def take(batches, **options):
    loader = build_train_loader(IMAGES, mapper=mapper, **{"total_batch_size": 2, **options})
    return list(itertools.islice(loader, batches))


def as_processes(monkeypatch, rank, world):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world)


def test_every_epoch_has_every_image_once():
    numbers = [sample["number"] for batch in take(5) for sample in batch]
    assert sorted(numbers[:5]) == sorted(numbers[5:]) == [0, 1, 2, 3, 4]
    assert numbers[:5] != numbers[5:]


def test_same_seed_same_samples_other_seed_others():
    assert take(4, seed=1) == take(4, seed=1)
    assert take(4, seed=1) != take(4, seed=2)


@pytest.mark.parametrize("first_iter", [1, 3])
def test_starting_later_continues_the_same_stream(first_iter):
    assert take(6)[first_iter:] == take(6 - first_iter, first_iter=first_iter)


def test_workers_change_nothing():
    assert take(4, num_workers=2) == take(4, num_workers=0)


def test_an_image_is_augmented_anew_in_every_epoch():
    draws = {sample["draws"] for batch in take(10) for sample in batch}
    assert len(draws) == 20


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_see_what_one_accumulating_process_sees(monkeypatch, world):
    """Every step has the same samples in the same order, with the same random numbers."""
    one = take(3 * world, total_batch_size=4, accumulate=world)
    whole = [sample for batch in take(3, total_batch_size=4) for sample in batch]
    assert [sample for batch in one for sample in batch] == whole
    for rank in range(world):
        as_processes(monkeypatch, rank, world)
        assert take(3, total_batch_size=4) == one[rank::world]


def test_accumulation_resumes_at_the_right_micro_batch():
    assert take(6, accumulate=2)[4:] == take(2, accumulate=2, first_iter=2)


def test_sampler_by_hand(monkeypatch):
    as_processes(monkeypatch, 1, 2)
    first, second = itertools.islice(PositionBatchSampler(100, 3, seed=0), 2)
    assert [position for position, _ in first] == [3, 4, 5]
    assert [position for position, _ in second] == [9, 10, 11]


def test_mixed_seeds_differ():
    seeds = {mix_seed(a, b) for a in range(20) for b in range(20)}
    assert len(seeds) == 400


def test_uneven_batch_and_empty_data_are_errors():
    with pytest.raises(ConfigError, match=r"total_batch_size=3 .* use a multiple of 2"):
        take(1, total_batch_size=3, accumulate=2)
    with pytest.raises(ConfigError, match="no image to learn from"):
        build_train_loader([], mapper=mapper, total_batch_size=1)


def odd_ones(record):
    """Map odd numbers, and refuse even ones."""
    return mapper(record) if record["number"] % 2 else None


def test_a_record_that_the_mapper_refuses_is_replaced_by_another():
    loader = build_train_loader(IMAGES, mapper=odd_ones, total_batch_size=2)
    batches = list(itertools.islice(loader, 10))
    assert {sample["number"] for batch in batches for sample in batch} == {1, 3}
    again = build_train_loader(IMAGES, mapper=odd_ones, total_batch_size=2, first_iter=4, num_workers=2)
    assert list(itertools.islice(again, 6)) == batches[4:]


def test_a_mapper_that_refuses_everything_is_an_error():
    loader = build_train_loader(IMAGES, mapper=lambda record: None, total_batch_size=1)
    with pytest.raises(DatasetError, match="returns None for each of the 5 images"):
        next(iter(loader))


def test_a_lambda_can_be_sent_to_spawned_processes():
    loader = build_train_loader(
        IMAGES, mapper=lambda record: {"number": record["number"]}, total_batch_size=1
    )
    assert pickle.loads(pickle.dumps(loader.dataset))[(0, 3)] == {"number": 3}


def test_the_data_set_can_be_sent_to_spawned_processes():
    """What several processes a machine use, and their loaders' workers after them."""
    loader = build_train_loader(IMAGES, mapper=mapper, total_batch_size=2, seed=3)
    again = pickle.loads(pickle.dumps(loader.dataset))
    assert again[(7, 2)] == loader.dataset[(7, 2)]
    spawned = DataLoader(
        loader.dataset,
        batch_sampler=loader.batch_sampler,
        num_workers=1,
        collate_fn=list,
        multiprocessing_context="spawn",
    )
    assert next(iter(spawned)) == take(1, seed=3)[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "does not exist"),
        (lambda file: file.write_bytes(file.read_bytes()[:700]), "truncated|Truncated"),
        (lambda file: file.write_bytes(b"spam"), "no known format"),
        (lambda file: Image.new("RGB", (9, 9)).save(file), "Mismatched image shape"),
    ],
)
def test_a_photograph_that_cannot_be_read_is_named(tmp_path, spoil, message):
    file = tmp_path / "broken.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(file)
    spoil(file)
    record = {"file_name": str(file), "height": 64, "width": 64, "annotations": []}
    mapper = DatasetMapper(True, augmentations=[], image_format="RGB")
    loader = build_train_loader([record], mapper=mapper, total_batch_size=1)
    with pytest.raises(DatasetError, match=rf"broken\.jpg .*({message})"):
        next(iter(loader))
