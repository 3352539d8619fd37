"""Examples that a report shows: an image with what is found in it."""

from __future__ import annotations

import base64
import io
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from sigmaquant.errors import MissingExtraError


@dataclass(frozen=True)
class Box:
    """A box in an image.

    Attributes:
        x1, y1, x2, y2: its corners, as parts of the image's width and height.
        label: of what is in it.
        score: how sure the network is; None: the truth.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    label: str
    score: float | None = None


@dataclass(frozen=True)
class Picture:
    """An image with what the float network and the quantized one find in it.

    Attributes:
        image: a ``data:`` URL, see `image_url`.
        width, height: in pixels.
        truth: what is there.
        before: what the float network finds.
        after: what the quantized network finds.
    """

    image: str
    width: int
    height: int
    truth: tuple[Box, ...]
    before: tuple[Box, ...]
    after: tuple[Box, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def image_url(image: Tensor) -> str:
    """A JPEG in a ``data:`` URL, for a page that loads nothing.

    Args:
        image: [3, height, width] or [1, height, width] in 0..1; values beyond are cut off.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("Showing images in the report", "detection") from None
    pixels = image.detach().cpu().float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    stored = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).convert("RGB").save(stored, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stored.getvalue()).decode()
