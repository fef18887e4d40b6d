"""Pickles of numpy arrays are read; whatever else a pickle holds is refused, and nothing of it runs."""

import os
import pickle
import struct
import time
from collections import OrderedDict

import numpy as np
import pytest
import torch

from lesa_d2.checkpoint import read_checkpoint
from lesa_d2.checkpoint.numpy_pickle import RefusedError, read_numpy_pickle
from lesa_d2.errors import CheckpointError

ARRAYS = {
    "plain": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big endian": np.arange(6, dtype=">f4"),
    "half": np.ones(2, np.float16),
    "truth": np.array([True, False]),
    "counter": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_become_tensors(protocol):
    read = read_numpy_pickle(pickle.dumps({"model": OrderedDict(ARRAYS), "__author__": "me"}, protocol))
    assert read["__author__"] == "me"
    for name, array in ARRAYS.items():
        assert isinstance(read["model"][name], torch.Tensor)
        assert read["model"][name].shape == array.shape
        assert read["model"][name].tolist() == array.tolist(), name


def test_other_values():
    values = {
        "a": [1, -(2**70), 2.5, None, True],
        "b": (b"x", "ü", (1, 2, 3, 4)),
        "c": {1: {}},
        "d": np.float32(3),
    }
    for protocol in range(6):
        assert read_numpy_pickle(pickle.dumps(values, protocol)) == {**values, "d": 3.0}


def test_a_pickle_of_python_2():
    """Written by Python 2.7's cPickle, protocol 2: the numbers are a str, the OrderedDict has pairs."""
    content = (
        b"\x80\x02}q\x01U\x05blobsq\x02ccollections\nOrderedDict\n]q\x03]q\x04(U\x06conv1_q\x05"
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08\x00\x00\x80?\x00\x00\x00\xc0tbea\x85Rs."
    )
    assert read_numpy_pickle(content)["blobs"]["conv1_"].tolist() == [1, -2]


class Reduced:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


class Plain:
    pass


def _call(module, name, instruction, argument=b"V%s\n"):
    """A pickle of protocol 0 or 1 that calls a function with the command."""
    command = argument % COMMAND.encode()
    return {
        "REDUCE": f"c{module}\n{name}\n(".encode() + command + b"tR.",
        "INST": b"(" + command + f"i{module}\n{name}\n.".encode(),
        "OBJ": f"(c{module}\n{name}\n".encode() + command + b"o.",
        "NEWOBJ": f"\x80\x02c{module}\n{name}\n(".encode("latin1") + command + b"t\x81.",
        "NEWOBJ_EX": f"\x80\x04c{module}\n{name}\n(".encode("latin1") + command + b"t}\x92.",
        "STACK_GLOBAL": f"\x80\x04V{module}\nV{name}\n\x93(".encode("latin1") + command + b"tR.",
        "in an entry": f"}}Va\nc{module}\n{name}\n(".encode() + command + b"tRs.",
    }[instruction]


COMMAND = "touch ran"


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Content of a file -> the error; fails where anything ran."""
    monkeypatch.chdir(tmp_path)

    def check(content, match=""):
        (tmp_path / "model_final.pkl").write_bytes(content)
        started = time.monotonic()
        with pytest.raises(CheckpointError, match=rf"model_final\.pkl cannot be read(.|\n)*{match}"):
            read_checkpoint(tmp_path / "model_final.pkl")
        assert os.listdir(tmp_path) == ["model_final.pkl"]
        assert time.monotonic() - started < 5

    return check


@pytest.mark.parametrize(
    "instruction", ["REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "in an entry"]
)
@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("subprocess", "Popen")]
)
def test_calls_run_nothing(refused, instruction, module, name):
    refused(_call(module, name, instruction))


def test_the_malicious_pickles_are_malicious(tmp_path, monkeypatch):
    """What is refused above runs when it is unpickled."""
    monkeypatch.chdir(tmp_path)
    for instruction in ("REDUCE", "INST", "OBJ", "STACK_GLOBAL", "in an entry"):
        pickle.loads(_call("os", "system", instruction))
        os.remove("ran")


def numpys(name):
    return next(f"numpy.{core}.multiarray\n{name}\n".encode() for core in ("core", "_core"))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (pickle.dumps({"a": Plain()}), "Plain"),
        (pickle.dumps({"a": Reduced(dict, (), {"x": 1})}, 2), "the name __builtin__.dict"),
        (pickle.dumps({"a": Reduced(pickle.loads, (pickle.dumps(1),))}), "the name _pickle.loads"),
        (pickle.dumps({"a": np.array([Plain()], dtype=object)}), "does not hold numbers"),
        (pickle.dumps({"a": np.array(["x"])}), "does not hold numbers"),
        (pickle.dumps({"a": np.zeros(2, "f4,f4")}), "numpy type|does not hold numbers"),
        (pickle.dumps({"a": {1, 2}}), "the instruction EMPTY_SET"),
        (b"\x80\x02c" + numpys("_reconstruct") + b"cos\nsystem\nK\x00\x85U\x01b\x87R.", "the name os.system"),
        (b"\x80\x02c" + numpys("_reconstruct") + b"cnumpy\ndtype\nK\x00\x85U\x01b\x87R.", "another class"),
        (b"\x80\x02c" + numpys("_reconstruct") + b"}b.", "a state of something else"),  # state of a function
        (b"\x80\x02cnumpy\nndarray\nU\x01a\x85R.", "a call of a class"),
        (b"\x80\x02cnumpy\nndarray\n}U\x07__new__K\x01sb.", "a state of something else"),
        (b"\x80\x02U\x01a)R.", "not known"),
        (b"\x80\x02U\x01aQ.", "the instruction BINPERSID"),
        (b"Pa\n.", ""),
        (b"\x80\x02\x82\x01.", "the instruction EXT1"),
        (b"\x80\x02\x83\x01\x00.", "the instruction EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "the instruction EXT4"),
        (b"\x80\x05\x97.", "the instruction NEXT_BUFFER"),
        (b"\x80\x02K\x01K\x02a.", "something else than a list"),
        (b"\x80\x02]K\x01K\x02s.", "something else than a dict"),
        (b"\x80\x02}K\x01\x85K\x02s.", "keys that are no strings"),
        (b"\x80\x02a.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02K\x01", "damaged"),
    ],
)
def test_everything_else_is_refused(refused, content, match):
    refused(content, match)


def array(shape=b"K\x02\x85", kind=b"U\x02f4", numbers=b"U\x08" + bytes(8), order=b"U\x01<"):
    return (
        b"\x80\x02}U\x01ac" + numpys("_reconstruct") + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01" + shape + b"cnumpy\ndtype\n" + kind + b"K\x00K\x01\x87R"
        b"(K\x03" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + numbers + b"tbs."
    )


def test_the_array_is_one():
    assert read_numpy_pickle(array())["a"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (array(shape=b"\x8a\x06" + b"\xff" * 5 + b"\x00\x85"), "with 8 bytes, expected 4398046511100"),
        (array(shape=b"J\xff\xff\xff\xff\x85"), "no tuple of sizes"),
        (array(shape=b"]"), "unknown form"),
        (array(shape=b"(" + b"K\x02" * 40 + b"t"), "no tuple of sizes"),
        (array(shape=b"(" + b"K\x02" * 30 + b"t"), "with 8 bytes, expected"),
        (array(numbers=b"U\x04" + bytes(4)), "with 4 bytes, expected 8"),
        (array(numbers=b"]"), "no bytes"),
        (array(kind=b"U\x02O8"), "does not hold numbers"),
        (array(kind=b"U\x03V99"), "does not hold numbers"),
        (array(kind=b"U\x02zz"), "type 'zz'"),
        (array(kind=b"cos\nsystem\n"), "the name os.system"),
        (array(order=b"U\x01O"), "numpy type of an unknown form"),
        (b"\x80\x02}T\xff\xff\xff\x7fabc.", "damaged"),  # a string of 2 GB
        (b"\x80\x04}\x8e" + struct.pack("<Q", 2**62) + b"abc.", "damaged"),
        (b"\x80\x05}\x96" + struct.pack("<Q", 2**62) + b"abc.", "damaged"),
        (b"\x80\x02K\x01r\xff\xff\xff\xffh\x00.", "damaged"),  # pickle.Unpickler would make 2^33 entries
    ],
)
def test_sizes_that_lie_allocate_nothing(refused, content, match):
    refused(content, match)


def test_nested_pairs_take_no_time(refused):
    """2^60 elements if written out: as the shape of an array, and as a key."""
    pairs = b"K\x01\x85q\x00" + b"h\x00\x86q\x00" * 60
    refused(array(shape=pairs))
    refused(b"\x80\x02}" + pairs + b"K\x01s.")


def test_an_array_without_numbers():
    content = b"\x80\x02}U\x01ac" + numpys("_reconstruct") + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87Rs."
    with pytest.raises(RefusedError, match="without numbers"):
        read_numpy_pickle(content)


def test_files_of_detectron2_say_who_wrote_them(tmp_path):
    file = tmp_path / "R-50.pkl"
    for content, author, by_ends in (
        (
            {"model": {"a": ARRAYS["plain"]}, "__author__": "torchvision", "matching_heuristics": True},
            "torchvision",
            True,
        ),
        (
            {"model": {"a": ARRAYS["plain"]}, "__author__": "Detectron2 Model Zoo"},
            "Detectron2 Model Zoo",
            None,
        ),
        ({"blobs": {"a": ARRAYS["plain"], "a_momentum": ARRAYS["plain"]}, "cfg": "x"}, "Caffe2", True),
        ({"a": ARRAYS["plain"]}, "Caffe2", True),
    ):
        file.write_bytes(pickle.dumps(content, 2))
        read = read_checkpoint(file)
        assert list(read["model"]) == ["a"]
        assert read["model"]["a"].tolist() == ARRAYS["plain"].tolist()
        assert read["__author__"] == author
        assert read.get("matching_heuristics") is by_ends


def test_what_is_referred_to_often_is_converted_once():
    """A small file would else take any amount of memory, or of time."""
    array = np.ones((64, 64), np.float32)
    read = read_numpy_pickle(pickle.dumps({f"k{i}": array for i in range(500)}, 2))
    assert len({value.data_ptr() for value in read.values()}) == 1
    node = {"x": array}
    for _ in range(3):
        node = {f"k{i}": node for i in range(200)}
    read = read_numpy_pickle(pickle.dumps(node, 2))  # 8,000,000 paths
    assert read["k0"] is read["k199"]
