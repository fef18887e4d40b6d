import hashlib
import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from detectron2.utils.file_io import PathManager
from torch import nn

from lesa_d2.checkpoint import ReportingCheckpointer, catalog, models_folder, weights_state
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
        "configs/imagenet_lesa_r50.py",
        "convert_checkpoint.py",
        'train.init_checkpoint=""',
    ):
        assert words in str(error.value)


def test_a_missing_start_of_a_yacs_detector_names_its_classifier(tmp_path, monkeypatch):
    monkeypatch.setenv("LESA_MODELS", str(tmp_path))
    with pytest.raises(CheckpointError) as error:
        PathManager.get_local_path("lesa://start_lesa_r50.pth")
    command = f"imagenet-to-detector {tmp_path / 'imagenet_lesa_r50.pth'} {tmp_path / 'start_lesa_r50.pth'}"
    assert command in str(error.value)
    assert "MODEL.WEIGHTS" in str(error.value)


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        (
            "mask_rcnn_lesa_r50",
            ["train_net.py --config-file configs/mask_rcnn_lesa_r50.py", "add mask_rcnn_lesa_r50"],
            ["convert_checkpoint", "pretrain_imagenet"],
        ),
        (
            "htc_lesa_dconv_wr50_20e_1280",
            ["train_net.py --config-file configs/htc_lesa", "--from official-detector SRC"],
            [],
        ),
        (
            "imagenet_conv_r50",
            ["pretrain_imagenet.py", "--data DIR", "--from torchvision SRC"],
            ["train_net"],
        ),
        ("imagenet_static_lesa_r50", ["pretrain_imagenet.py"], ["convert_checkpoint"]),  # never released
        ("quickstart_classifier", ["pretrain_imagenet.py"], ["--data"]),
        ("mine", ["model_zoo add mine FILE"], ["train_net", "pretrain", "convert"]),
    ],
)
def test_missing_weights_name_the_ways_there_are(name, present, absent, tmp_path, monkeypatch):
    monkeypatch.setenv("LESA_MODELS", str(tmp_path))
    with pytest.raises(CheckpointError, match="cannot be downloaded") as error:
        PathManager.get_local_path(f"lesa://{name}.pth")
    assert all(words in str(error.value) for words in present)
    assert not any(words in str(error.value) for words in absent)


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
    """A server with x.pth, an empty folder of weights, and a function that writes its catalog."""
    for variable, name in (("LESA_MODELS", "models"), ("FVCORE_CACHE", "cache")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    (tmp_path / "web").mkdir()
    torch.save({"a": torch.ones(2)}, tmp_path / "web/x.pth")
    server = Server(tmp_path / "web")

    def record(**fields):
        (tmp_path / "models/catalog.json").write_text(json.dumps({"x": fields}))

    server.record, server.file = record, tmp_path / "web/x.pth"
    server.digest = hashlib.sha256(server.file.read_bytes()).hexdigest()
    yield server
    server.close()


def test_weights_are_downloaded_once_and_checked(published, tmp_path):
    published.record(url=f"{published.url}/x.pth", sha256=published.digest)
    assert weights_state("x") == "download"
    assert PathManager.isfile("lesa://x.pth")
    assert published.requests == []  # asking costs no download
    for _ in range(2):
        local = PathManager.get_local_path("lesa://x.pth")
        assert local.startswith(str(tmp_path / "cache"))
        assert torch.load(local, weights_only=True)["a"].tolist() == [1, 1]
    assert len(published.requests) == 1


def test_the_folder_comes_before_the_download(published, tmp_path):
    published.record(url=f"{published.url}/x.pth", sha256=published.digest)
    (tmp_path / "models/x.pth").write_bytes(published.file.read_bytes())
    assert weights_state("x") == "local"
    assert PathManager.get_local_path("lesa://x.pth") == str(tmp_path / "models/x.pth")
    assert published.requests == []


def test_a_damaged_download_names_both_digests(published):
    published.record(url=f"{published.url}/x.pth", sha256="a" * 64)
    with pytest.raises(CheckpointError) as error:
        PathManager.get_local_path("lesa://x.pth")
    for words in ("a" * 64, published.digest, "delete it to download it again", "/cache/x.pth"):
        assert words in str(error.value)


def test_a_failing_download_is_one_error(published):
    published.record(url=f"{published.url}/gone.pth")
    with pytest.raises(CheckpointError, match=r"'x.pth' cannot be downloaded from .*gone\.pth: .*404"):
        PathManager.get_local_path("lesa://x.pth")


def test_an_address_that_leads_nowhere(published, tmp_path):
    published.record(url=str(tmp_path / "nowhere.pth"))
    with pytest.raises(CheckpointError, match="leads to no file"):
        PathManager.get_local_path("lesa://x.pth")


def test_a_damaged_local_file_names_both_digests_and_what_to_do(published, tmp_path):
    published.record(sha256="b" * 64)
    file = tmp_path / "models/x.pth"
    file.write_bytes(published.file.read_bytes())
    with pytest.raises(CheckpointError) as error:
        PathManager.get_local_path("lesa://x.pth")
    command = f"python -m lesa_d2.model_zoo add x {file}"
    assert all(words in str(error.value) for words in ("b" * 64, published.digest, command, "copy it again"))


def test_a_local_source_of_another_digest_is_not_to_be_deleted(published):
    published.record(url=str(published.file), sha256="a" * 64)
    with pytest.raises(CheckpointError, match="put the right file there") as error:
        PathManager.get_local_path("lesa://x.pth")
    assert "delete" not in str(error.value)


def test_loading_hashes_once(published, tmp_path, monkeypatch):
    calls = []
    digest = catalog.sha256_of
    monkeypatch.setattr(catalog, "sha256_of", lambda file: calls.append(file) or digest(file))
    model = nn.Linear(3, 2)
    torch.save({"model": model.state_dict()}, tmp_path / "models/x.pth")
    published.record(sha256=digest(tmp_path / "models/x.pth"))
    ReportingCheckpointer(model).load("lesa://x.pth", checkpointables=[])
    assert len(calls) == 1
