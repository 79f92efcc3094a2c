"""Checkpoints that are checked and never execute code."""

import copy
import os
import pickle
import tarfile
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from kanlib import KAN, MeanSquaredError, train_multilevel
from kanlib.training.checkpoints import FIELDS, FORMAT, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Return the state of a real checkpoint, on the second level of a run."""
    path = tmp_path_factory.mktemp("run") / "c.pt"
    train_multilevel(network(), objective(), [2, 2], checkpoint=path, progress=False)
    return load_checkpoint(path)


def network():
    torch.manual_seed(0)
    return KAN([1, 1], n=3, dtype=torch.float64)


def objective():
    x = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    return MeanSquaredError(x, torch.sin(9 * x))


def resumed(path):
    return train_multilevel(
        network(), objective(), [2, 2], checkpoint=path, resume=True, progress=False
    )


def test_checkpoint_returns_what_was_saved(state, tmp_path):
    assert state.keys() == {"format", *FIELDS}
    assert (state["state"]["level"], state["state"]["epoch"]) == (1, 2)
    save_checkpoint(tmp_path / "c.pt", state)
    again = load_checkpoint(tmp_path / "c.pt")
    assert repr(again) == repr(state)
    assert resumed(tmp_path / "c.pt").status == "completed"


def test_checkpoint_that_does_not_exist_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        load_checkpoint(tmp_path / "none")


class Bomb:
    """Code that runs when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def write_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data", "text")


def write_tar(path):
    with tarfile.open(path, "w") as file:
        file.add(__file__)


def write_npz(path):
    with open(path, "wb") as file:
        np.savez(file, a=1)


FOREIGN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "json": lambda path: path.write_text('{"format": "kanlib checkpoint 1"}'),
    "random": lambda path: path.write_bytes(np.random.default_rng(0).bytes(500)),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"format": FORMAT})),
    "zip": write_zip,
    "tar": write_tar,
    "npz": write_npz,
    "torchscript": lambda path: torch.jit.save(torch.jit.script(nn.Identity()), path),
    "tensor": lambda path: torch.save(torch.zeros(3), path),
    "list": lambda path: torch.save([FORMAT], path),
    "module": lambda path: torch.save(nn.Linear(1, 1), path),
    "older": lambda path: torch.save({"format": "kanlib checkpoint 0"}, path),
    "other": lambda path: torch.save({"model": {}}, path),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_foreign_file_is_refused_and_kept(write, tmp_path):
    path = tmp_path / "foreign.pt"
    write(path)
    before = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"checkpoint .*foreign\.pt .*: delete it and run"):
            resumed(path)
    assert path.read_bytes() == before


def test_truncated_checkpoint_is_refused_at_any_length(state, tmp_path):
    save_checkpoint(tmp_path / "whole.pt", state)
    content = (tmp_path / "whole.pt").read_bytes()
    path = tmp_path / "c.pt"
    for length in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"checkpoint .*c\.pt is truncated"):
            load_checkpoint(path)


@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
@pytest.mark.parametrize("hidden", [False, True])
def test_code_in_a_file_is_refused_and_never_executed(save, hidden, state, tmp_path):
    bomb, mark = Bomb(tmp_path / "exploded"), tmp_path / "exploded"
    save({**state, "scheduler": {"last_epoch": bomb}} if hidden else bomb, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="carries code, which was not executed: delete"):
        resumed(tmp_path / "c.pt")
    assert not mark.exists()
    pickle.loads(pickle.dumps(bomb))
    assert mark.exists()  # the file was dangerous indeed


@pytest.mark.parametrize("name", FIELDS)
def test_checkpoint_with_a_missing_or_wrong_field_is_refused(name, state, tmp_path):
    path = tmp_path / "c.pt"
    for change in ({}, {name: None}, {name: "text"}):
        others = {key: value for key, value in state.items() if key != name}
        save_checkpoint(path, others | change)
        with pytest.raises(ValueError, match=rf"c\.pt lacks {name}, or holds other types there"):
            resumed(path)


def changed(state, name, value):
    """Return the state with another value under a name, or names with dots between."""
    first, _, rest = name.partition(".")
    return {**state, first: changed(state[first], rest, value) if rest else value}


DAMAGES = {
    "no settings": ("settings", {}),
    "other epochs": ("settings.epochs", "many"),
    "nowhere": ("state", {}),
    "level too high": ("state.level", 7),
    "level too low": ("state.level", -1),
    "epoch too high": ("state.epoch", 3),
    "epoch too low": ("state.epoch", -1),
    "no tensors": ("model", {"layers.0.weight": 1, "layers.0._extra_state": 2}),
    "nothing good": ("good", []),
    "numbers for good": ("good", [1.0] * 5),
    "something beside": ("beside", [torch.ones(3)]),
    "no optimizer": ("optimizer", {}),
    "other optimizer": ("optimizer", {"state": 1, "param_groups": 2}),
    "no history": ("state.history", {}),
    "other levels": ("state.levels", [1]),
    "unknown level": ("state.levels", [{"m": 3}]),
    "other grids": ("grids", {"layers.0": {"basis": "spline", "free": False, "breakpoints": 1}}),
    "short generator": ("random", torch.zeros(3, dtype=torch.uint8)),
    "many generators": ("random_batches", [1]),
}


@pytest.mark.parametrize(("name", "value"), DAMAGES.values(), ids=DAMAGES)
def test_checkpoint_with_damaged_content_is_refused(name, value, state, tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, changed(state, name, value))
    before = path.read_bytes()
    model = network()
    untrained = model.layers[0].weight.detach().clone()
    with pytest.raises(
        ValueError, match=r"checkpoint .*c\.pt (is damaged|belongs to .*): .*delete"
    ):
        train_multilevel(model, objective(), [2, 2], checkpoint=path, resume=True, progress=False)
    assert path.read_bytes() == before
    assert torch.equal(model.layers[0].weight, untrained)


def test_flipped_bit_is_noticed_wherever_it_is(state, tmp_path):
    save_checkpoint(tmp_path / "whole.pt", state)
    whole = (tmp_path / "whole.pt").read_bytes()
    rng = np.random.default_rng(0)
    path, noticed, trials = tmp_path / "c.pt", 0, 150
    for place in rng.integers(0, len(whole), trials):
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))
        try:
            found = load_checkpoint(path)
        except ValueError:
            noticed += 1
        else:  # a bit of the padding, or of a time
            assert repr(found) == repr(state)
    assert noticed > 0.5 * trials


def test_compressed_file_is_refused_before_it_grows(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * 10**7)
    tracemalloc.start()
    with pytest.raises(ValueError, match="truncated, foreign, damaged"):
        load_checkpoint(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", b"\0" * 10**4)
        file.filelist += [copy.copy(file.filelist[0]) for _ in range(100)]
    with pytest.raises(ValueError, match="truncated, foreign, damaged"):
        load_checkpoint(path)


def test_numbers_of_numpy_are_those_of_python_in_a_checkpoint(state, tmp_path):
    odd = {"a": np.float32(0.5), "b": [np.int64(3), (np.bool_(True), None)], "c": np.arange(3.0)}
    save_checkpoint(tmp_path / "c.pt", {**state, "scheduler": odd}, check=True)
    found = load_checkpoint(tmp_path / "c.pt")["scheduler"]
    assert (found["a"], found["b"]) == (0.5, [3, (True, None)])
    assert torch.equal(found["c"], torch.arange(3.0, dtype=torch.float64))


def test_what_could_not_be_read_again_is_not_written(state, tmp_path):
    path = tmp_path / "c.pt"
    with pytest.raises(
        TypeError, match=r"c\.pt could not be read again: keep nothing but tensors.*"
    ):
        save_checkpoint(path, {**state, "scheduler": {"k": path}}, check=True)
    assert not path.exists()
