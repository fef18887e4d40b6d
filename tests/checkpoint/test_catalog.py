"""What is recorded of weights, in the package and in a folder of the user's."""

import hashlib
import json

import pytest
import torch

from lesa_d2.checkpoint import catalog
from lesa_d2.checkpoint.catalog import SHIPPED, add_weights, known_sha256, read_catalog
from lesa_d2.errors import CheckpointError

DIGEST = "a" * 64


def write(folder, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "catalog.json").write_text(text)


def save(file, value=1.0):
    torch.save({"model": {"a": torch.full((2,), value)}}, file)
    return file


def test_nothing_is_published_yet_and_results_are_the_authors(tmp_path):
    entries = read_catalog(tmp_path)
    assert all(entry.url is None and entry.sha256 is None for entry in entries.values())
    assert {entry.source for entry in entries.values()} == {"paper", "release"}
    detector = entries["htc_lesa_dconv_wr50_20e_1280"]
    assert (detector.box_ap, detector.mask_ap, detector.source) == (50.1, 43.9, "paper")
    assert json.loads(SHIPPED.read_text()).keys() == entries.keys()


def test_the_users_catalog_overrides_single_fields(tmp_path):
    write(
        tmp_path,
        {"imagenet_lesa_r50": {"url": "https://a.example/x.pth", "top1": None}, "mine": {"sha256": DIGEST}},
    )
    entries = read_catalog(tmp_path)
    assert entries["imagenet_lesa_r50"].url == "https://a.example/x.pth"
    assert entries["imagenet_lesa_r50"].top1 == 79.55
    assert entries["mine"].sha256 == DIGEST


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ([], "expected an object that maps names to entries, got list"),
        ({"x": 3}, "x: expected an object, got int"),
        ({"x": {"sha": DIGEST}}, "x: unknown field 'sha'; known are url, sha256"),
        ({"x": {"sha256": "AB"}}, "x: sha256 must be 64 lower-case hexadecimal digits or null, got 'AB'"),
        ({"x": {"size": True}}, "x: size must be a number of bytes"),
        ({"x": {"box_ap": 101}}, "x: box_ap must be a percentage"),
        ({"a/b": {}}, "'a/b' is no name"),
        ({"x.pth": {}}, "'x.pth' is no name"),
        ({"x": {"url": "lesa://x.pth"}}, "x: url must be an address that does not start with lesa://"),
    ],
)
def test_a_malformed_catalog_is_one_error(content, words, tmp_path):
    write(tmp_path, content)
    with pytest.raises(CheckpointError) as error:
        read_catalog(tmp_path)
    assert words in str(error.value)
    assert str(tmp_path / "catalog.json") in str(error.value)


def test_all_problems_are_listed_at_once(tmp_path):
    write(tmp_path, {"x": {"url": 1, "size": "2"}, "y": None})
    with pytest.raises(CheckpointError, match=r"(?s)x: url.*x: size.*y: expected"):
        read_catalog(tmp_path)


def test_adding_copies_and_records(tmp_path):
    source, folder = save(tmp_path / "model_final.pth"), tmp_path / "models"
    entry = add_weights("mine.pth", source, folder, url="https://a.example/mine.pth")
    copy = folder / "mine.pth"
    assert copy.read_bytes() == source.read_bytes()
    assert entry.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert entry.size == source.stat().st_size
    assert read_catalog(folder)["mine"] == entry
    assert {file.name for file in folder.iterdir()} == {"mine.pth", "catalog.json"}


def test_adding_the_file_that_is_there_records_it(tmp_path):
    add_weights("mine", save(tmp_path / "mine.pth"), tmp_path, url="https://a.example/mine.pth")
    before = read_catalog(tmp_path)["mine"]
    assert add_weights("mine", tmp_path / "mine.pth", tmp_path) == before  # the address too
    save(tmp_path / "mine.pth", 2.0)
    after = add_weights("mine", tmp_path / "mine.pth", tmp_path)
    assert after.sha256 != before.sha256
    assert after.url is None  # it led to the other file


def test_other_weights_are_replaced_only_by_force(tmp_path):
    add_weights("mine", save(tmp_path / "a.pth"), tmp_path)
    other = save(tmp_path / "b.pth", 2.0)
    with pytest.raises(CheckpointError, match=r"holds other weights.*--force"):
        add_weights("mine", other, tmp_path)
    assert (tmp_path / "mine.pth").read_bytes() == (tmp_path / "a.pth").read_bytes()
    add_weights("mine", other, tmp_path, force=True)
    assert (tmp_path / "mine.pth").read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("../x", None, "is no name"),
        ("x.pth.pth", None, "'x.pth' is no name"),
        ("x", b"junk", "is no checkpoint"),
        ("x", b"", "is no checkpoint"),
    ],
)
def test_what_cannot_be_added(name, content, words, tmp_path):
    source = save(tmp_path / "a.pth")
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        add_weights(name, source, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("url", ["lesa://x.pth", ""])
def test_an_address_that_the_catalog_would_refuse_is_not_recorded(url, tmp_path):
    with pytest.raises(CheckpointError, match="url must be an address"):
        add_weights("x", save(tmp_path / "a.pth"), tmp_path / "models", url=url)
    assert not (tmp_path / "models").exists()


def test_a_folder_of_weights_that_is_a_file_is_one_error(tmp_path):
    (tmp_path / "models").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        add_weights("x", save(tmp_path / "a.pth"), tmp_path / "models")


@pytest.mark.parametrize("content", [None, "{"])
def test_nothing_is_copied_beside_a_catalog_that_cannot_be_read(content, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    if content is None:
        (folder / "catalog.json").mkdir()
    else:
        write(folder, content)
    for use in (read_catalog, lambda folder: add_weights("x", save(tmp_path / "a.pth"), folder)):
        with pytest.raises(CheckpointError, match=r"catalog\.json cannot be read"):
            use(folder)
    assert [file.name for file in folder.iterdir()] == ["catalog.json"]


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(catalog, "sha256_of", lambda file: calls.append(file) or str(len(calls)))
    file = tmp_path / "x"
    file.write_bytes(b"1")
    assert [known_sha256(file), known_sha256(file)] == ["1", "1"]
    file.write_bytes(b"12")
    assert known_sha256(file) == "2"
