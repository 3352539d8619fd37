"""A user's mistake ends in one message that helps, exit code 2 and no traceback; nothing is trained before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from command import BAD, MODEL, QUICK, SINGLE, TRAIN, main, quantize, refused
from sigmaquant import Budget, Settings, SigmaQuantError
from sigmaquant import quantize as quantize_model
from sigmaquant.training import student


@pytest.fixture(autouse=True)
def _untrained(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No mistake here needs any training to be found, but for those so marked."""
    if "trains" not in request.fixturenames:
        monkeypatch.setattr(student, "train_", lambda *_, **__: pytest.fail("trained"))


@pytest.fixture
def trains() -> None:
    """Marks a test of a mistake that only training shows."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--strategy", "sigm"), "there is no strategy 'sigm'. Did you mean 'sigma'?"),
        (("--strategy", "gredy"), "there is no strategy 'gredy'. Did you mean 'greedy'?"),
        (("--sensitivity", "fischer"), "there is no sensitivity 'fischer'. Did you mean 'fisher'?"),
        (("--sigma", "row"), "there is no sigma 'row'. Did you mean 'raw'?"),
        (("--metric", "top5"), "there is no metric 'top5'. Did you mean 'top1'? Or pass a callable."),
        (("--hardware", "idael"), "there is no hardware profile 'idael'. Did you mean 'ideal'?"),
        (("--device", "cudda"), "the device 'cudda' cannot be used"),
        (("--bitwidths", "2,x"), "--bitwidths '2,x' is no list of whole numbers, like 2,4,6,8."),
        (("--bitwidths", "4,16"), "bitwidths: bitwidth 16 is not one of 2..8."),
        (("--activation-bits", "1"), "activation_bits: bitwidth 1 is not one of 2..8."),
        (("--pin", "3"), "--pin '3' is not NAME=VALUE, like --pin conv1=8."),
        (("--pin", "3="), "--pin '3=' is not NAME=VALUE"),
        (("--pin", "=8"), "--pin '=8' is not NAME=VALUE"),
        (("--pin", "3=x"), "--pin 'x' is no list of whole numbers"),
        (("--pin", "3=4,8"), "--pin '4,8' is no single bitwidth. Several go with --allow NAME=4,8."),
        (("--pin", "3=9"), "pin of '3': bitwidth 9 is not one of 2..8."),
        (("--allow", "3"), "--allow '3' is not NAME=VALUE, like --allow conv1=8."),
        (("--lr", "nan"), "lr is nan; it must be finite and above zero."),
        (("--search-minutes", "0"), "search_minutes is 0.0; it must be finite and above zero."),
        (("--epochs", "inf"), "final_epochs is inf; it must be finite and at least 0."),
        (("--epochs", "nan"), "final_epochs is nan; it must be finite and at least 0."),
        (("--batch-size", "0"), "batch_size is 0; it must be finite and at least 1."),
        (("--seed", "-1"), "seed is -1; it must be a whole number of at least 0 and below 2^63."),
        (("--seed", str(2**63)), "it must be a whole number of at least 0 and below 2^63."),
        (("--distill", "2"), "distill is 2.0; it must lie between 0 and 1."),
        (("--resume",), "resume and overwrite need a run directory: run_dir=, or --out."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_unusable_options(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(quantize("--size", "8x", *arguments, model=SINGLE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pin", "99=8"), "the pin names '99', which the model does not have. Did you mean '9'?"),
        (("--allow", "00=4,8"), "the allowed bitwidths names '00', which the model does not have. Did you mean '0'?"),
        (("--pin", "3=8", "--allow", "3=4,8"), "layer '3' is both pinned and restricted. Give only one of the two."),
    ],
)
def test_unknown_layers(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(quantize("--size", "8x", *arguments))


@pytest.mark.parametrize(
    "arguments", [("--objective", "tiny"), ("--sise", "8x"), ("--size-counts", "all"), ("--seed", "one")]
)
def test_what_the_parser_refuses(arguments: tuple[str, ...]) -> None:
    message = refused(quantize("--size", "8x", *arguments, model=SINGLE))
    assert arguments[0] in message
    assert "Usage:" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (),
            "no budget was given. Give at least one of --size, --accuracy, --bops, --macs, --energy, --latency, "
            "--ram, --flash.",
        ),
        (("--size", "8 apples"), "the size '8 apples' has the unknown unit 'apples'."),
        (("--size", "0.5"), "the size '0.5' is less than one byte."),
        (("--accuracy", "90"), "the accuracy floor 90 cannot be: top1 lies between 0 and 1. Write '90 %' or 0.9"),
        (("--accuracy", "-1"), "1 less than the float network's excludes nothing, since top1 lies between 0 and 1."),
        (("--size", "-1 %"), "the size '-1 %' is a share."),
        (("--size", "8x", "--pin", "9=8", "--pin", "9=4"), "--pin gives '9' twice, as 8 and as 4. Give it once."),
        (("--accuracy", "1 point"), "the accuracy '1 point' has the unknown unit 'point'."),
        (("--energy", "5"), "the energy '5' is not a number with a unit|the energy '5' has the unknown unit"),
        (("--energy", "2 mJ"), "the budget limits the energy, which this hardware profile does not give."),
        (
            ("--energy", "2x"),
            "the budget asks for a 2x reduction of the energy, but how much of it a float32 network takes",
        ),
        (("--latency", "15 ms"), "the budget limits the latency, which this hardware profile does not give."),
        (("--ram", "20 B"), "no weight bitwidth changes it. Raise the limit, or lower the activation bitwidths."),
        (
            ("--size", "900 B"),
            "the smallest reachable size is 963 B. Raise the limit to 963 B",
        ),
        (
            ("--bops", "100x", "--accuracy", "-1 %"),
            "the smallest reachable bit operations is 903.17 k. Raise the limit to 903.17 k or more.",
        ),
        (("--size", "8x", "--pin", "9=8"), "Unpin '9' (8 bits), or raise the limit to"),
        (("--size", "8x", "--bitwidths", "4,8"), "Allow bitwidths below 4, or raise the limit to"),
        (("--size", "8x", "--objective", "smallest"), "the objective 'smallest' shrinks the network until"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_budgets_that_make_no_sense_or_cannot_be_met(arguments: tuple[str, ...], message: str) -> None:
    printed = refused(quantize(*arguments))
    assert any(part in printed for part in message.split("|")), printed


def test_a_refused_run_leaves_its_directory_free(tmp_path: Path, trains: None) -> None:
    assert "cannot be met" in refused(quantize("--size", "100x", "--out", tmp_path / "run"))
    assert quantize("--size", "8x", "--out", tmp_path / "run").code == 0


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("empty", "the training data has no examples."),
        ("no_batches", "the training data is empty."),
        (
            "wrong_channels",
            "the model cannot run on the training data: a batch of (2, 3, 8, 8) torch.float32",
        ),
        (
            "ragged",
            "batch 1: an example has the shape (1, 9, 9), in batch 0 (1, 8, 8). The network becomes",
        ),
        ("wrong_lengths", "100 inputs but targets of shape (90,). The first dimensions must be equal."),
        ("raw_images", "the inputs are uint8, which layers do not take."),
        ("without_targets", "the training data is one Tensor of shape (100, 1, 8, 8), without targets."),
        ("one_nan", "the training data: 1 of 25600 input values are NaN or infinite."),
        ("text", "the training data is a str."),
        ("NUMBER", "the training data is a int."),
        ("raises", "the training data: the factory"),
    ],
)
def test_data_that_cannot_be_used(factory: str, message: str) -> None:
    assert message in refused(quantize("--size", "8x", model=SINGLE, train=f"{BAD}:{factory}"))


@pytest.mark.parametrize("option", ["--val", "--test"])
@pytest.mark.parametrize(
    ("factory", "message"),
    [("wrong_channels", "the model cannot run on the"), ("ragged", "batch 1: an example has the shape (1, 9, 9)")],
)
def test_no_data_may_be_misshaped(tmp_path: Path, option: str, factory: str, message: str) -> None:
    given = ("--size", "8x", option, f"{BAD}:{factory}", "--out", tmp_path)
    said = refused(quantize(*given, model=SINGLE))
    assert message in said
    assert {"--val": "validation data", "--test": "test data"}[option] in said
    assert not (tmp_path / "config.json").exists(), "the corrected command may have the directory"


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nan_weight", "parameter '3.weight' contains NaN or infinite values, so no scale fits it."),
        ("nan_statistics", "the float network gives NaN or infinite outputs on the validation data."),
        ("no_layers", "Sequential has no quantizable layer"),
        ("Branching", "torch.export cannot turn the model into a graph"),
        ("Speechless", "the model cannot run on the training data: a batch of (2, 1, 8, 8) torch.float32 gives Not"),
        ("scripted", "the model is TorchScript (RecursiveScriptModule), whose Python modules are gone. Pass the"),
        ("lazy", "'1.weight' has no shape yet: it belongs to a lazy module that has never run."),
        ("text", "gives a str, not a torch.nn.Module."),
        ("raises", "failed: OSError: the server is down"),
    ],
)
def test_models_that_cannot_be_used(factory: str, message: str) -> None:
    assert message in refused(quantize("--size", "8x", model=f"{BAD}:{factory}"))


def test_a_model_that_cannot_be_exported_is_shown_the_line() -> None:
    message = refused(quantize("--size", "8x", model=f"{BAD}:Branching"))
    assert "bad.py" in message
    assert "if x.sum() > 0:" in message


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("no_number", "the metric must return one number, it returned dict"),
        ("a_text", "the metric must return one number, it returned str '0.5'."),
        ("not_finite", "the metric returned nan; it must be finite."),
        ("failing", "the metric 'failing' failed on outputs (250, 6) and targets (250,): IndexError:"),
    ],
)
def test_metrics_that_cannot_be_used(metric: str, message: str) -> None:
    assert message in refused(quantize("--size", "8x", "--metric", f"{BAD}:{metric}", model=SINGLE))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("failing", "the loss 'failing' failed on outputs (50, 6) and targets (50,): IndexError:"),
        (
            "per_example",
            "the loss 'per_example' must return one number as a tensor, it returned a tensor of shape",
        ),
        ("a_constant", "the loss 'a_constant' returned a constant, from which nothing can be learned"),
        ("a_float", "the loss 'a_float' must return one number as a tensor, it returned float."),
        ("nan_loss", "training diverged at step 0: loss nan"),
    ],
)
def test_losses_that_cannot_be_used(trains: None, loss: str, message: str) -> None:
    assert message in refused(quantize("--size", "8x", "--distill", "0", "--loss", f"{BAD}:{loss}", model=SINGLE))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("unknown_classes", "does not exist: the model has 6 classes"),
        ("real_targets", "cross-entropy needs integer class targets"),
    ],
)
def test_targets_that_cross_entropy_does_not_take(trains: None, factory: str, message: str) -> None:
    assert message in refused(quantize("--size", "8x", "--distill", "0.5", model=SINGLE, train=f"{BAD}:{factory}"))


def test_a_learning_rate_that_diverges(trains: None, tmp_path: Path) -> None:
    options = ("--size", "8x", "--epochs", "3", "--lr", "1e30", "--out", tmp_path / "run")
    message = refused(quantize(*options))
    assert "training diverged at step" in message
    assert "Lower the learning rate (lr is 1e+30;" in message
    again = refused(quantize(*options))
    assert "already holds a started run. Continue it with --resume" in again


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"sede": 1}, r"there is no option 'sede'\. Did you mean 'seed'\?"),
        (
            {"pin": {"nein": 8}},
            r"the pin names 'nein', which the model does not have\. Known names: '0'",
        ),
        ({"activation_pin": {"imput": 8}}, r"names 'imput', which the model does not have\. Did you mean 'input'"),
    ],
)
def test_names_in_python(option: dict, message: str) -> None:
    with pytest.raises(SigmaQuantError, match=message):
        tiny.run("8x", **option)


def test_no_model_in_python() -> None:
    with pytest.raises(SigmaQuantError, match=r"the model is a str, not a torch\.nn\.Module"):
        quantize_model("resnet18", tiny.train_data(), budget="8x")  # type: ignore[arg-type]


def test_no_budget_in_python() -> None:
    with pytest.raises(SigmaQuantError, match="the budget is empty"):
        tiny.run(Budget())


def test_settings_that_contradict() -> None:
    with pytest.raises(SigmaQuantError, match="bitwidths is empty"):
        Settings(bitwidths=())
    with pytest.raises(SigmaQuantError, match="there is no rounding 'up'"):
        Settings(rounding="up")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("bitwidths", 4, r"bitwidths is 4; it must be several bitwidths, like \(4, 8\)"),
        ("allowed", {"0": 4}, "allowed of '0' is 4; it must be several bitwidths"),
        ("pin", ["0"], r"pin is \['0'\]; it must be a mapping"),
        ("final_epochs", "2", "final_epochs is '2'; it must be a number"),
        ("lr", None, "lr is None; it must be a number"),
        ("max_cycles", 2.5, "max_cycles is 2.5; it must be a whole number"),
        ("cycle_examples", None, "cycle_examples is None; it must be a whole number"),
        ("control", "yes", "control is 'yes'; it must be True or False"),
        ("control", None, "control is None; it must be True or False"),
        ("bf16", "auto", "bf16 is 'auto'; it must be True or False"),
    ],
)
def test_settings_of_wrong_types(field: str, value: object, message: str) -> None:
    with pytest.raises(SigmaQuantError, match=message):
        Settings(**{field: value})  # type: ignore[arg-type]


def test_settings_take_numpy_numbers() -> None:
    settings = Settings(seed=np.int64(3), lr=np.float32(0.5), pin={"0": np.int64(8)}, final_epochs=2)
    assert (settings.seed, settings.lr, settings.pin, settings.final_epochs) == (3, 0.5, {"0": 8}, 2.0)
    json.dumps(settings.to_dict())


@pytest.mark.parametrize(("what", "given"), [("metric", 3), ("loss", "ce")])
def test_what_is_no_function(what: str, given: object) -> None:
    with pytest.raises(SigmaQuantError, match=rf"the {what} is a {type(given).__name__}\. Pass a .*callable"):
        tiny.run("8x", **{what: given})


def test_help_and_no_command() -> None:
    assert main("--help").code == 0
    assert "quantize" in main("--help").out
    assert main().code == 2
    assert "No such command" in main("quantise", MODEL, "--train", TRAIN, *QUICK).err
