"""Atomic writing: the old file or the new one, whatever happens between."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from sigmaquant.errors import StorageError
from sigmaquant.runs.atomic import save_tensors_atomic, write_bytes_atomic, write_text_atomic
from sigmaquant.runs.weights import load_tensors


def failing(code: int):
    def fail(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    return fail


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text_atomic(path, "eins\nµ")
    assert path.read_bytes() == "eins\nµ".encode()
    write_bytes_atomic(path, b"")
    assert path.read_bytes() == b""
    assert list(tmp_path.iterdir()) == [path]


def test_partial_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
    write_bytes_atomic(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    write_text_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "new"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old")
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(StorageError) as caught:
        write_text_atomic(path, "new")
    monkeypatch.undo()
    message = str(caught.value)
    assert str(path) in message
    assert "the disk is full (" in message
    assert "free)" in message
    assert "The old file is intact." in message
    assert caught.value.errno == code
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_real_refusal_of_the_kernel_half_way(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "a"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # no file may grow beyond this
    try:
        with pytest.raises(StorageError, match=r"file too large\. The old file is intact\. Check the disk"):
            write_bytes_atomic(path, b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_without_an_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    with pytest.raises(StorageError, match=r"Nothing was written\. Free some space"):
        write_text_atomic(tmp_path / "a", "new")
    assert not list(tmp_path.iterdir())


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"file name too long\. Nothing was written\. Choose a shorter name\."):
        write_text_atomic(tmp_path / ("a" * 300), "new")


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text_atomic(tmp_path / "a", "new")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_sync_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    calls = []

    def second_fails(_descriptor: int) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", second_fails)
    with pytest.raises(StorageError, match="The new file is in place, but may not survive a power failure"):
        write_text_atomic(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_folders_of_network_file_systems_need_no_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    calls = []

    def second_fails(_descriptor: int) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", second_fails)
    write_text_atomic(tmp_path / "a", "new")
    assert len(calls) == 2


def test_missing_folder_and_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no such file or directory\. Nothing was written\. Create the folder"):
        write_text_atomic(tmp_path / "no" / "a", "x")
    (tmp_path / "d").mkdir()
    with pytest.raises(StorageError, match="A folder has that name"):
        write_text_atomic(tmp_path / "d", "x")
    (tmp_path / "f").write_text("")
    with pytest.raises(StorageError, match="is no folder; choose another path"):
        write_text_atomic(tmp_path / "f" / "a", "x")


def test_tensors_of_any_layout_round_trip(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    tensors = {
        "plain": torch.randn(3, 4),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "transposed": torch.randn(4, 3).T,
        "expanded": torch.ones(1, 3).expand(5, 3),
        "half_a": base[:12],
        "overlap": base[6:18],
        "tied": base,
        "tied_again": base,
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "rng": torch.get_rng_state(),
        "bf16": torch.randn(3).bfloat16(),
        "grad": torch.nn.Parameter(torch.randn(2)),
        "bool": torch.tensor([True, False]),
    }
    save_tensors_atomic(tmp_path / "a.safetensors", tensors, {"kind": "µ"})
    loaded, metadata = load_tensors(tmp_path / "a.safetensors")
    assert metadata == {"kind": "µ"}
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert loaded[name].shape == tensor.shape, name
        assert torch.equal(loaded[name], tensor.detach()), name


def test_no_tensors_at_all(tmp_path: Path) -> None:
    save_tensors_atomic(tmp_path / "a.safetensors", {})
    assert load_tensors(tmp_path / "a.safetensors") == ({}, {})


def test_full_disk_keeps_the_old_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors_atomic(path, {"x": torch.zeros(2)})
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    with pytest.raises(StorageError, match="The old file is intact"):
        save_tensors_atomic(path, {"x": torch.ones(2)})
    assert torch.equal(load_tensors(path)[0]["x"], torch.zeros(2))
