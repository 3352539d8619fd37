"""Whole networks, bit for bit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from c_cases import SANITIZED, check_codes, compiled, integer_model, mixed_model, random_codes
from torch import nn

from sigmaquant.errors import ExportError
from sigmaquant.export.c import export_c
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, IntegerModel, lower
from sigmaquant.operators import encode
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_


@pytest.fixture(scope="module")
def model() -> IntegerModel:
    return mixed_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "mixed"
    export_c(model, folder, name="mixed")
    return folder


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.parametrize(("midrise_up_to", "first"), [(0, 2), (4, 5)])
def test_each_layer_at_other_bitwidths(midrise_up_to, first, tmp_path, objects):
    model = mixed_model(midrise_up_to, first)
    export_c(model, tmp_path / "mixed")
    check_codes(compiled(tmp_path / "mixed", objects, ("-O1",)), model, random_codes(model, 4))


def test_memory_is_right_where_buffers_are_destroyed_outside_of_their_lifetimes(model, folder, tmp_path, objects):
    runner = compiled(copied(folder, tmp_path), objects, ("-O1", "-DSQ_CHECK"))
    check_codes(runner, model, random_codes(model, 5))


def test_destroying_finds_a_wrong_plan(model, folder, tmp_path, objects):
    copy = copied(folder, tmp_path)
    text = (copy / "mixed.c").read_text()
    calls = re.findall(r"sq_\w+\(&\w+, BUFFER_(\d+), BUFFER_(\d+)", text)
    source, target = calls[len(calls) // 2]  # what a call reads and what it writes
    offset = re.search(rf"#define BUFFER_{source} .*\[(\d+)\]", text)
    assert offset is not None
    wrong = re.sub(rf"(#define BUFFER_{target} .*\[)\d+\]", rf"\g<1>{offset[1]}]", text)
    assert wrong != text
    (copy / "mixed.c").write_text(wrong)
    with pytest.raises(AssertionError, match="instead of"):
        check_codes(compiled(copy, objects, ("-O1", "-DSQ_CHECK")), model, random_codes(model, 5))


def test_sanitizers_find_nothing_in_buffers_of_their_own(model, folder, tmp_path, sanitized):
    runner = compiled(copied(folder, tmp_path), sanitized, (*SANITIZED, "-DSQ_SEPARATE", "-DSQ_CHECK"))
    check_codes(runner, model, random_codes(model, 3))


def test_sanitizers_find_a_buffer_that_is_too_small(folder, model, tmp_path, sanitized):
    copy = copied(folder, tmp_path)
    text = (copy / "mixed.c").read_text()
    separate = text.split("#else")[0]
    last = re.findall(r"static int8_t buffer_\d+\[(\d+)\];", separate)[-2]
    (copy / "mixed.c").write_text(text.replace(f"[{last}];", f"[{int(last) - 1}];", 1))
    with pytest.raises(ExportError, match="AddressSanitizer"):
        compiled(copy, sanitized, (*SANITIZED, "-DSQ_SEPARATE"))(*random_codes(model, 1))


def trained(loader, name: str, midrise_up_to: int) -> IntegerModel:
    images, _ = loader.cifar("test")
    x = torch.from_numpy(images[:16]).permute(0, 3, 1, 2).float().div_(64).sub_(2)
    return integer_model(loader.network(name)[0], x, midrise_up_to)


@pytest.mark.parametrize(("name", "midrise_up_to"), [("akamaster_resnet20_cifar10", 4), ("mlperf_resnet8_cifar10", 0)])
def test_trained_networks(shared_loader, name, midrise_up_to, tmp_path, objects):
    model = trained(shared_loader, name, midrise_up_to)
    report = export_c(model, tmp_path / "network", name=name)
    check_codes(compiled(report.folder, objects, ("-O1",)), model, random_codes(model, 2))
    ideal = sum(-(-operator.codes.size * operator.bits // 8) for operator in model.weighted)
    assert ideal <= report.weight_bytes <= ideal + sum(len(operator.codes) for operator in model.weighted)


def test_a_keyword_transformer(sequence_task, tmp_path, objects):
    networks, loader = sequence_task
    network = loader.weights(networks.KWT1(), "kwt1_speech_commands")
    clips, labels = loader.kwt("calib")
    graph = trace(network, (clips[:2],))
    prepared = prepare(graph)
    weights, activations = (dict.fromkeys(names, 8) for names in (graph.layer, graph.activation_names))
    set_plan_(prepared, BitwidthPlan(weights, activations, graph.fingerprint, 0))
    calibrate_(prepared, [clips[:32]])
    model = lower(prepared)
    assert model.float_operators == ()
    report = export_c(model, tmp_path / "kwt")
    runner, clips = compiled(report.folder, objects, ("-O2",)), clips[100:112]
    check_codes(runner, model, [encode(clips, model.edges[model.inputs[0]])])
    found = runner(clips)
    assert torch.equal(found, IntegerExecutor(model)(clips))
    assert (found.argmax(1) == labels[100:112]).double().mean() > 0.8
    check_codes(runner, model, random_codes(model, 2))


def test_mobilenet(tmp_path, objects):
    transformers = pytest.importorskip("transformers", reason="needs transformers for MobileNetV2")
    torch.manual_seed(0)
    config = transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.35, num_labels=7, tf_padding=True)
    network: nn.Module = transformers.MobileNetV2ForImageClassification(config)
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        for _ in range(5):  # statistics that fit the weights
            network.train()(images)
    model = integer_model(network.eval(), images, 3)
    report = export_c(model, tmp_path / "network")
    assert {layer.kernel for layer in report.layers} >= {"sq_conv", "sq_depthwise"}
    check_codes(compiled(report.folder, objects, ("-O1",)), model, random_codes(model, 2))


class TwoByTwo(nn.Module):
    """Two inputs, two outputs, one weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.shared(torch.relu(self.shared(a)))) + b
        return hidden, self.head(hidden)


def test_several_inputs_and_outputs_and_a_shared_weight(tmp_path, objects):
    torch.manual_seed(0)
    inputs = (torch.randn(9, 6), torch.randn(9, 6))
    network = prepare(trace(TwoByTwo().eval(), inputs))
    plan = BitwidthPlan(dict.fromkeys(network.graph.layer, 5), dict.fromkeys(network.graph.activation_names, 8), "", 0)
    set_plan_(network, plan)
    calibrate_(network, [inputs])
    model = lower(network)
    report = export_c(model, tmp_path / "two")
    assert [layer.weight_bytes for layer in report.layers] == [24, 24, 12]
    assert report.weight_bytes == 36  # the shared weight is stored once
    runner = compiled(report.folder, objects, ("-O1",))
    check_codes(runner, model, random_codes(model, 4))
    for found, expected in zip(runner(*inputs), IntegerExecutor(model)(*inputs), strict=True):
        assert torch.equal(found, expected)
