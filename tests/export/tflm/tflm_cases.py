"""What the tests of files for TensorFlow Lite Micro share with those of LiteRT files."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "litert"))

from litert_cases import Call, lowered, noise
from litert_networks import NETWORKS

__all__ = ["NETWORKS", "Call", "lowered", "noise"]
