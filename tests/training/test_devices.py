"""Where training runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sigmaquant.errors import SigmaQuantError
from sigmaquant.training import devices
from sigmaquant.training.devices import Device, choose_device, default_device

WITHOUT_OPTION = default_device  # before the test session's own choice takes its place


@pytest.mark.parametrize("name", ["nonsense", "cuda:999", "", "cpu:x"])
def test_devices_that_do_not_exist_are_told(name):
    with pytest.raises(SigmaQuantError, match=r"cannot be used: .*device='cpu'"):
        choose_device(name)


@pytest.mark.parametrize("supported", [True, False])
def test_bf16_follows_the_hardware_unless_told(monkeypatch, supported):
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: supported)
    assert choose_device("cpu") == Device("cpu", supported)
    assert choose_device("cpu", bf16=not supported).bf16 is not supported


@pytest.mark.parametrize(("there", "name"), [(True, "cuda"), (False, "cpu")])
def test_cuda_is_taken_where_it_is(monkeypatch, there, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert WITHOUT_OPTION() == name


def test_autocast_is_bf16_where_chosen():
    layer, x = nn.Linear(3, 3), torch.rand(2, 3)
    for bf16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        with Device("cpu", bf16).autocast():
            assert layer(x).dtype == dtype


def test_images_are_put_channels_last_and_nothing_else_changes():
    device, image = Device("cpu", False), torch.rand(2, 3, 4, 5)
    a, (b, c), d = device.put((image, [torch.arange(24).reshape(1, 2, 3, 4), torch.rand(2, 3)], "name"))
    assert a.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(a, image)
    assert b.is_contiguous()  # integers
    assert c.dim() == 2
    assert d == "name"
    assert Device("cpu", False, channels_last=False).put(image).is_contiguous()


def test_modules_keep_their_parameters_and_may_have_kernels_of_any_dimension():
    model = nn.ModuleList([nn.Conv1d(2, 3, 2), nn.Conv2d(2, 3, 2), nn.Conv3d(2, 3, 2), nn.Linear(2, 2)])
    before = {name: (parameter, parameter.detach().clone()) for name, parameter in model.named_parameters()}
    assert Device("cpu", False).put_module(model) is model
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last)
    for name, parameter in model.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
