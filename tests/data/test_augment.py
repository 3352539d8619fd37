"""Augmentation and normalisation against the slow obvious way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from sigmaquant.data import CropAndFlip, Normalize
from sigmaquant.errors import DataError


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 4), channels=st.integers(1, 3), height=st.integers(1, 6), width=st.integers(1, 6),
    padding=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_every_result_is_a_crop_of_the_padded_image(
    batch: int, channels: int, height: int, width: int, padding: int, flip: bool, seed: int
) -> None:
    images = torch.randint(1, 256, (batch, channels, height, width), dtype=torch.uint8)
    result = CropAndFlip(padding, flip)(images, torch.Generator().manual_seed(seed))
    assert result.shape == images.shape
    assert result.dtype == torch.uint8
    padded = torch.nn.functional.pad(images, [padding] * 4)
    for index in range(batch):
        crops = [
            padded[index, :, top : top + height, left : left + width]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        allowed = crops + ([crop.flip(2) for crop in crops] if flip else [])
        assert any(torch.equal(result[index], crop) for crop in allowed)


def test_examples_differ_and_every_case_comes() -> None:
    images = torch.arange(64.0).reshape(1, 1, 8, 8).expand(2000, 1, 8, 8) + 1
    results = CropAndFlip(1)(images, torch.Generator().manual_seed(0))
    assert len({tuple(item.flatten().tolist()) for item in results}) == 9 * 2


def test_without_padding_and_flip_nothing_changes() -> None:
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(CropAndFlip(0, False)(images, torch.Generator()), images)


def test_normalize() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    expected = (images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    before = images.clone()
    result = Normalize(mean, std)(images)
    assert result.dtype == torch.float32
    assert torch.allclose(result, expected, atol=1e-5)
    assert torch.equal(images, before)


def test_images_may_lie_on_a_gpu() -> None:
    normalize = Normalize((0.5,), (0.25,))
    with FakeTensorMode(allow_non_fake_inputs=True):  # a device that need not be there; mixed devices are refused
        images = torch.empty(2, 1, 8, 8, dtype=torch.uint8, device="cuda")
        result = normalize(CropAndFlip()(images, torch.Generator()))
    assert result.device.type == "cuda"
    assert result.dtype == torch.float32


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.0,)), ((0.5,), (0.1, 0.2)), ((0.5,), (float("nan"),))])
def test_malformed_normalize(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="one number per channel, and every std must be above zero"):
        Normalize(mean, std)
