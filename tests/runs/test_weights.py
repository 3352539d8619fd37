"""Loading tensors: every broken or foreign file has its own words, and no code is ever run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from sigmaquant.errors import CheckpointError
from sigmaquant.runs.weights import load_tensors, load_weights, parse_tensors

GOOD = save({"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}, {"a": "b"})


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "owned"))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no file .*a\.safetensors\. Check the path"):
        load_tensors(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"could not read .*directory"):
        load_tensors(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short or damaged"),
        (b"hello", "cut short or damaged"),
        (GOOD[:-1], "cut short or damaged"),
        (GOOD[:20], "cut short or damaged"),
        (GOOD + b"x", "cut short or damaged"),
        (b"\xff" * 64, "cut short or damaged"),
        (pickle.dumps({"a": 1}), r"is a pickle .* can run any code .*safetensors\.torch\.save_file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    for read in (load_tensors, load_weights):
        with pytest.raises(CheckpointError, match=message):
            read(path)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255))
def test_a_changed_byte_loads_or_is_a_checkpoint_error(position: int, value: int) -> None:
    data = bytearray(GOOD)
    data[position] = value
    try:
        tensors, metadata = parse_tensors(bytes(data), Path("a.safetensors"))
    except CheckpointError as error:
        assert "a.safetensors" in str(error)  # noqa: PT017 (most examples do load)
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
        assert isinstance(metadata, dict)


def test_a_header_whose_length_begins_like_a_pickle(tmp_path: Path) -> None:
    for size in range(1, 800):
        data = save({"x": torch.zeros(1)}, {"a": "b" * size})
        if data.startswith(b"\x80\x02"):
            break
    else:
        pytest.fail("no header of that length")
    for name in ("w.safetensors", "w.bin"):
        (tmp_path / name).write_bytes(data)
        assert set(load_weights(tmp_path / name)) == {"x"}


def test_torch_file_of_a_state_dict(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    assert torch.equal(load_weights(tmp_path / "w.pt")["weight"], model.weight)
    torch.save(model.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert set(load_weights(tmp_path / "old.pth")) == {"weight", "bias"}


def test_wrappings_of_training_scripts_come_off(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "best": 0.9}, tmp_path / "w.th")
    assert set(load_weights(tmp_path / "w.th")) == {"weight", "bias"}


def test_safetensors_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(GOOD)
    assert set(load_weights(tmp_path / "w.bin")) == {"weight", "bias"}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for name, options in (("new.pt", {}), ("old.pt", {"_use_new_zipfile_serialization": False})):
        torch.save({"weight": torch.zeros(1), "x": Evil(mark)}, tmp_path / name, **options)
        with pytest.raises(CheckpointError, match=r"Python objects inside .*can run any code") as caught:
            load_weights(tmp_path / name)
        assert "safetensors.torch.save_file" in str(caught.value)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(CheckpointError):
        load_weights(tmp_path / "plain.pkl")
    assert not mark.exists()


def test_whole_models_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="a whole model"):
        load_weights(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor, not the tensors of a `state_dict"),
        ({}, "holds a dict"),
        ({"epoch": 3}, "the entry 'epoch' is a int"),
        ([torch.zeros(3)], "holds a list"),
    ],
)
def test_torch_files_without_a_state_dict(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=message):
        load_weights(tmp_path / "w.pt")


def test_cut_torch_file(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(30, 20).state_dict(), tmp_path / "w.pt")
    data = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load_weights(tmp_path / "w.pt")
