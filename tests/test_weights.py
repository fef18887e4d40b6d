"""Weights by name: in the folder of LESA_MODELS, downloaded, or an error that says how to get them."""

import hashlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from detectron2.utils.file_io import PathManager
from torch import nn
from torchvision.models._api import BUILTIN_MODELS, Weights, WeightsEnum

from lesa_d2 import weights
from lesa_d2.checkpoint import load_weights, models_folder, weights_state
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
        "train.init_checkpoint=torchvision://resnet50",
        "lesa pretrain",
        "lesa convert",
        "train.init_checkpoint='' ",
        "MODEL.WEIGHTS",
        "trained=False",
    ):
        assert words in str(error.value)


def test_nothing_is_published_yet_and_results_are_the_authors():
    assert weights.DOWNLOADS == {}
    assert {result.source for result in weights.RESULTS.values()} == {"paper", "release", "torchvision"}
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


# ------------------------------------------------------------------------------------ torchvision's


@pytest.fixture
def listed_by_torchvision(published, monkeypatch, tmp_path):
    """A model of torchvision's with two entries, whose files are on the server."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    urls = {}
    for member in ("IMAGENET1K_V1", "IMAGENET1K_V2"):
        content = f"{member}".encode()
        digest = hashlib.sha256(content).hexdigest()
        (tmp_path / f"web/tiny-{digest[:8]}.pth").write_bytes(content)
        urls[member] = f"{published.url}/tiny-{digest[:8]}.pth"

    class TinyWeights(WeightsEnum):
        IMAGENET1K_V1 = Weights(url=urls["IMAGENET1K_V1"], transforms=None, meta={})
        IMAGENET1K_V2 = Weights(url=urls["IMAGENET1K_V2"], transforms=None, meta={})
        DEFAULT = IMAGENET1K_V2

    def tiny(*, weights: TinyWeights | None = None):
        raise AssertionError

    monkeypatch.setitem(BUILTIN_MODELS, "tiny", tiny)
    published.urls = urls
    return published


@pytest.mark.parametrize(
    ("address", "member"),
    [
        ("tiny", "IMAGENET1K_V1"),
        ("tiny/IMAGENET1K_V1", "IMAGENET1K_V1"),
        ("tiny/IMAGENET1K_V2", "IMAGENET1K_V2"),
        ("tiny/DEFAULT", "IMAGENET1K_V2"),
    ],
)
def test_torchvision_says_address_and_digest(listed_by_torchvision, address, member):
    assert PathManager.isfile(f"torchvision://{address}")
    assert listed_by_torchvision.requests == []
    for _ in range(2):
        with PathManager.open(f"torchvision://{address}", "rb") as file:
            assert file.read() == member.encode()
    assert len(listed_by_torchvision.requests) == 1


@pytest.mark.parametrize("folder", ["models", "hub/hub/checkpoints"])
def test_a_file_that_is_there_is_not_downloaded(listed_by_torchvision, tmp_path, folder):
    name = listed_by_torchvision.urls["IMAGENET1K_V1"].rpartition("/")[2]
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / name).write_bytes(b"IMAGENET1K_V1")
    assert PathManager.get_local_path("torchvision://tiny") == str(tmp_path / folder / name)
    (tmp_path / folder / name).write_bytes(b"half")
    with pytest.raises(CheckpointError, match=f"{name}.* is damaged .*expected SHA-256 {name[5:13]}, got "):
        PathManager.get_local_path("torchvision://tiny")
    assert listed_by_torchvision.requests == []


def test_without_network_the_file_to_put_is_named(listed_by_torchvision, tmp_path):
    for file in (tmp_path / "web").iterdir():
        file.unlink()
    url = listed_by_torchvision.urls["IMAGENET1K_V1"]
    with pytest.raises(CheckpointError) as error:
        load_weights(nn.Linear(3, 2), "torchvision://tiny")
    for words in (url, f"put the file into {tmp_path / 'models'} as {url.rpartition('/')[2]}"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("resnet5", "no model 'resnet5'; did you mean resnet50"),
        ("", "no model ''; expected a name such as resnet50"),
        ("resnet50/V3", "these weights of resnet50: IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
    ],
)
def test_what_torchvision_does_not_have(address, words):
    assert not PathManager.isfile(f"torchvision://{address}")
    with pytest.raises(CheckpointError, match=words):
        PathManager.get_local_path(f"torchvision://{address}")


def test_the_entries_that_configs_name():
    """The defaults are the baselines of the paper."""
    for name, digest in (("resnet50", "0676ba61"), ("wide_resnet50_2", "95faca4d")):
        assert weights.torchvision_url(f"torchvision://{name}").endswith(f"{name}-{digest}.pth")
    assert weights.torchvision_url("torchvision://resnet50/IMAGENET1K_V2").endswith("resnet50-11ad3fa6.pth")
