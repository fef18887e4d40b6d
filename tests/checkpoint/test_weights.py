"""Weights by name: in the folder of LESA_MODELS, downloaded, or an error that says how to get them."""

import hashlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from detectron2.utils.file_io import PathManager
from torch import nn

from lesa_d2.checkpoint import load_weights, models_folder, weights, weights_state
from lesa_d2.errors import CheckpointError


def test_prefix_reads_from_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LESA_MODELS", str(tmp_path))
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth")
    assert models_folder() == tmp_path
    assert PathManager.get_local_path("lesa://x.pth") == str(tmp_path / "x.pth")
    with PathManager.open("lesa://x.pth", "rb") as file:
        assert torch.load(file, weights_only=True)["a"].tolist() == [1, 1]
    assert PathManager.isfile("lesa://x.pth")
    assert not PathManager.isfile("lesa://y.pth")


@pytest.mark.parametrize("name", ["../x.pth", "/etc/passwd", "", "mine", ".pth", "a/b.pth", "x.pth.pth"])
def test_only_names_are_looked_up(name, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("LESA_MODELS", str(tmp_path / "models"))
    for file in ("x.pth", "models/mine", "models/.pth"):
        (tmp_path / file).touch()
    for read in (PathManager.get_local_path, PathManager.open):
        with pytest.raises(CheckpointError, match=r"is no address of weights: expected lesa://NAME\.pth"):
            read(f"lesa://{name}")
    assert not PathManager.isfile(f"lesa://{name}")


def test_missing_weights_say_what_is_there_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("LESA_MODELS", str(tmp_path))
    torch.save({}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError) as error:
        PathManager.get_local_path("lesa://imagenet_lesa_r50.pth")
    for words in (
        str(tmp_path / "imagenet_lesa_r50.pth"),
        "other.pth",
        "lesa train",
        "lesa pretrain",
        "lesa convert",
        'train.init_checkpoint=""',
        "MODEL.WEIGHTS",
        "trained=False",
    ):
        assert words in str(error.value)


def test_nothing_is_published_yet_and_results_are_the_authors():
    assert weights.DOWNLOADS == {}
    assert {result.source for result in weights.RESULTS.values()} == {"paper", "release"}
    detector = weights.RESULTS["htc_lesa_dconv_wr50_20e_1280"]
    assert (detector.box_ap, detector.mask_ap, detector.source) == (50.1, 43.9, "paper")


class Server:
    """Serves a folder over HTTP and counts what is asked for."""

    def __init__(self, folder):
        self.requests = []
        handler = partial(_Handler, directory=str(folder), requests=self.requests)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args, requests, **kwargs):
        self.requests = requests
        super().__init__(*args, **kwargs)

    def log_message(self, format, *args):
        self.requests.append(args[0])


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A server with x.pth, an empty folder of weights, and a function that says where x is."""
    for variable, name in (("LESA_MODELS", "models"), ("FVCORE_CACHE", "cache")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    (tmp_path / "web").mkdir()
    torch.save({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, tmp_path / "web/x.pth")
    server = Server(tmp_path / "web")
    server.file = tmp_path / "web/x.pth"
    server.digest = hashlib.sha256(server.file.read_bytes()).hexdigest()
    server.publish = lambda url, digest=server.digest: monkeypatch.setitem(
        weights.DOWNLOADS, "x", weights.Download(url, digest)
    )
    yield server
    server.close()


def test_weights_are_downloaded_once_and_checked(published, tmp_path):
    published.publish(f"{published.url}/x.pth")
    assert weights_state("x") == "download"
    assert PathManager.isfile("lesa://x.pth")
    assert published.requests == []  # asking costs no download
    model = nn.Linear(3, 2)
    for _ in range(2):
        assert PathManager.get_local_path("lesa://x.pth").startswith(str(tmp_path / "cache"))
        load_weights(model, "lesa://x.pth")
    assert model.weight.sum() == 6
    assert len(published.requests) == 1


def test_the_folder_comes_before_the_download(published, tmp_path):
    published.publish(f"{published.url}/x.pth")
    (tmp_path / "models/x.pth").write_bytes(b"mine")
    assert weights_state("x") == "local"
    assert PathManager.get_local_path("lesa://x.pth") == str(tmp_path / "models/x.pth")
    assert published.requests == []


def test_a_damaged_download_names_both_digests(published):
    published.publish(f"{published.url}/x.pth", "a" * 64)
    with pytest.raises(CheckpointError) as error:
        PathManager.get_local_path("lesa://x.pth")
    for words in ("a" * 64, published.digest, "Delete it to download it again", "/cache/x.pth"):
        assert words in str(error.value)


def test_a_failing_download_is_one_error(published, tmp_path):
    for url in (f"{published.url}/gone.pth", str(tmp_path / "nowhere.pth")):
        published.publish(url)
        with pytest.raises(
            CheckpointError, match=rf"'x' cannot be downloaded from {url}: .*models as x\.pth"
        ):
            PathManager.get_local_path("lesa://x.pth")
