"""Models and data named by text: modules, files, instances, classes, and every way in which that fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tiny
from sigmaquant.errors import CheckpointError, DataError, SigmaQuantError
from sigmaquant.frontends.data import load_data
from sigmaquant.frontends.factories import load_object
from sigmaquant.frontends.inputs import load_inputs
from sigmaquant.frontends.models import load_model

SOURCE = """
from torch import nn

COUNT = [0]
COUNT[0] += 1
finished = nn.Linear(4, 2)
pairs = [(1, 2)]

class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

def make():
    return nn.Linear(4, 2)

def broken():
    raise ValueError("no such dataset")

def needs(argument):
    return argument

def data():
    return pairs
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # undone with everything the test puts there
    (tmp_path / "nets_for_test.py").write_text(SOURCE)
    (tmp_path / "wrong.py").write_text("import nowhere_to_be_found")
    (tmp_path / "syntax.py").write_text("def")
    (tmp_path / "script.py").write_text("import sys\ndef make(): sys.exit(0)\nif __name__ != 'script': sys.exit(0)")
    (tmp_path / "torch_like.py").write_text("import torch.nowhere_either")
    yield tmp_path
    for name in [name for name in sys.modules if "nets_for_test" in name]:
        del sys.modules[name]


@pytest.mark.parametrize("source", ["nets_for_test.py", "nets_for_test"])
def test_files_and_modules(folder: Path, source: str) -> None:
    for name in ("make", "Net", "finished"):
        model = load_model(f"{source}:{name}")
        assert isinstance(model, nn.Linear)
        assert not model.training
    assert load_data(f"{source}:data", "train", "the data") is load_data(f"{source}:pairs", "train", "the data")
    assert load_object(f"{source}:COUNT", "the object") == [1], "a file is run once, however often it is named"


def test_a_file_finds_its_neighbours_when_it_is_read_and_when_it_is_called(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "below").mkdir()
    for name in ("one_for_nets_for_test", "other_for_nets_for_test"):
        (folder / "below" / f"{name}.py").write_text(SOURCE)
    (folder / "below" / "net.py").write_text(
        "import one_for_nets_for_test\n"
        "def make():\n"
        "    import other_for_nets_for_test\n"
        "    assert one_for_nets_for_test.COUNT == other_for_nets_for_test.COUNT\n"
        "    return other_for_nets_for_test.make()\n"
    )
    assert isinstance(load_model("below/net.py:make"), nn.Module)


def test_a_module_in_the_working_directory_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
    assert isinstance(load_model("nets_for_test:make"), nn.Module)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", r"the model 'resnet18' names no factory\. Write it as package\.module:factory or path/file\.py:"),
        (":make", "the model ':make' names no factory"),
        ("nets_for_test:", "the model 'nets_for_test:' names no factory"),
        ("missing.py:make", r"the model: there is no file missing\.py"),
        (
            "no_such_module:make",
            r"no_such_module cannot be imported: ModuleNotFoundError: No .*such_module'\. Write it as",
        ),
        ("no_such.module:make", r"no_such\.module cannot be imported: ModuleNotFoundError: No .*such'\. Write it as"),
        (
            "wrong.py:make",
            r"wrong\.py cannot be imported: ModuleNotFoundError: No module named 'nowhere_to_be_found'\. "
            r"Install 'nowhere_to_be_found', or put it beside the file\.$",
        ),
        ("wrong:make", r"wrong cannot be imported: .*\. Install 'nowhere_to_be_found', or put it beside the file\.$"),
        ("torch_like:make", r"No module named 'torch\.nowhere_either'\. Install 'torch\.nowhere_either', or"),
        ("syntax.py:make", r"syntax\.py cannot be imported: SyntaxError: [^.]*\(syntax\.py, line 1\)\.$"),
        ("nets_for_test.py:mak", r"nets_for_test\.py has no 'mak'\. Did you mean 'make'"),
        ("nets_for_test.py:broken", r"the factory nets_for_test\.py:broken failed: ValueError: no such dataset"),
        ("nets_for_test.py:needs", r"the factory nets_for_test\.py:needs failed: TypeError: needs\(\) missing 1"),
        ("nets_for_test.py:data", r"the model: nets_for_test\.py:data gives a list, not a torch\.nn\.Module"),
    ],
)
def test_what_names_no_model(folder: Path, spec: str, message: str) -> None:
    with pytest.raises(SigmaQuantError, match=message):
        load_model(spec)


def test_a_file_that_failed_is_tried_again(folder: Path) -> None:
    with pytest.raises(SigmaQuantError, match="nowhere_to_be_found"):
        load_model("wrong.py:make")
    (folder / "wrong.py").write_text(SOURCE)
    assert isinstance(load_model("wrong.py:make"), nn.Module)


def test_weights_must_fit(folder: Path) -> None:
    torch.save({"weight": torch.ones(2, 4), "bias": torch.zeros(2)}, "good.pt")
    assert torch.equal(load_model("nets_for_test.py:make", Path("good.pt")).weight, torch.ones(2, 4))
    for tensors, message in (
        (
            {"weight": torch.ones(2, 5), "bias": torch.zeros(2)},
            r"bad\.pt does not fit nets_for_test\.py:make: size",
        ),
        ({"weight": torch.ones(2, 4)}, r"it lacks 'bias' \(1 in all\)"),
        ({"weight": torch.ones(2, 4), "bias": torch.zeros(2), "x": torch.zeros(1)}, r"the unknown 'x' \(1 in all\)"),
    ):
        torch.save(tensors, "bad.pt")
        with pytest.raises(CheckpointError, match=message):
            load_model("nets_for_test.py:make", Path("bad.pt"))


def test_weights_without_batch_counters_fit(tmp_path: Path) -> None:
    tensors = {k: v for k, v in tiny.trained().state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(tensors, tmp_path / "old.pt")
    model = load_model(f"{tiny.HERE}:untrained", tmp_path / "old.pt")
    assert tiny.same_tensors(dict(model.named_parameters()), dict(tiny.trained().named_parameters()))


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("nets_for_test:data", "nets_for_test:data"),
        ("nets_for_test.py:data", "./below/../nets_for_test.py:data"),
        ("cifar10:data", "cifar10:./data?mean=0,0,0"),
    ],
)
def test_training_data_do_not_validate(folder: Path, train: str, val: str) -> None:
    (folder / "below").mkdir()
    with pytest.raises(DataError, match=r"the validation data '.*' are the training data: .* Leave out --val, so that"):
        load_inputs("nets_for_test:make", None, train, val, None, "top1", None, 8)


@pytest.mark.parametrize(("test", "other"), [("data", "training"), ("pairs", "validation")])
def test_data_that_decide_do_not_test(folder: Path, test: str, other: str) -> None:
    data = ("nets_for_test:data", "nets_for_test:pairs", f"nets_for_test:{test}")
    with pytest.raises(DataError, match=f"the test data '.*' are the {other} data: .* Leave out --test, or"):
        load_inputs("nets_for_test:make", None, *data, "top1", None, 8)


def test_data_of_one_file_are_told_apart(folder: Path) -> None:
    found = load_inputs("nets_for_test:make", None, "nets_for_test:data", "nets_for_test:pairs", None, "top1", None, 8)
    assert found["train_data"] == found["validation_data"] == [(1, 2)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifar10:nowhere", "nowhere"),
        ("cifar10:.?size=3", r"has the unknown option 'size'; known are 'mean', 'std', 'scale', 'layout', 'augment'\."),
        ("cifar10:.?mean=1,2", r"'cifar10:\.\?mean=1,2': the mean must be three numbers, like mean=0\.5,0\.5,0\.5"),
        ("cifar10:.?std=a,b,c", "the std must be three numbers"),
    ],
)
def test_cifar10_that_cannot_be_read(folder: Path, spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(spec, "train", "the training data")


def test_user_code_that_ends_the_program_is_an_error(folder: Path) -> None:
    """Or the command line would say with its exit code that the budget is met."""
    with pytest.raises(SigmaQuantError, match=r"script\.py cannot be imported: SystemExit: 0\. Put .* __name__ == "):
        load_model("script.py:make")
    with pytest.raises(SigmaQuantError, match=r"the factory script:make failed: SystemExit: 0"):
        load_model("script:make")
