"""A keyword spotter with an LSTM, from PyTorch to files that run: words are told apart by the order of their sounds.

    pip install "sigmaquant[onnx,litert]"
    python examples/keyword_lstm.py           # about two minutes on a CPU, training of the float network included
    python examples/keyword_lstm.py --quick

The data are made here, so that nothing has to be downloaded: frames of a spectrum in which bursts at three pitches
follow each other, in noise. The same bursts in another order are another word: no average over time would do.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sigmaquant
from sigmaquant.workflow.exporting import export_run

FRAMES, PITCHES, WORDS = 24, 12, ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


class KeywordLSTM(nn.Module):
    """Frames [N, 24, 12] -> scores of six words, from the state after the last frame."""

    def __init__(self, units: int = 24) -> None:
        super().__init__()
        self.lstm = nn.LSTM(PITCHES, units, batch_first=True)
        self.head = nn.Linear(units, len(WORDS))

    def forward(self, x: Tensor) -> Tensor:
        _, (last, _) = self.lstm(x)
        scores: Tensor = self.head(last[0])
        return scores


def spoken(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """So many recordings and their words: three bursts each, at places and pitches that vary, in noise."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(len(WORDS), (count,), generator=generator)
    order = torch.tensor(WORDS)[words]
    starts = torch.arange(3) * 8 + torch.randint(0, 5, (count, 3), generator=generator)
    places = (torch.arange(FRAMES)[None, None] - starts[..., None]).float()
    loudness = torch.exp(-((places - 1.5) ** 2) / 2)  # [N, 3, frames]
    pitch = order * 4 + torch.rand(count, 3, generator=generator) * 2 + 0.5
    spectrum = torch.exp(-((torch.arange(PITCHES)[None, None] - pitch[..., None]) ** 2) / 2)
    x = torch.einsum("nbf,nbp->nfp", loudness, spectrum)
    return x + 0.15 * torch.randn(x.shape, generator=generator), words


def trained(data: tuple[Tensor, Tensor], epochs: int) -> KeywordLSTM:
    """The float network."""
    torch.manual_seed(0)
    network, (x, y) = KeywordLSTM(), data
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
    return network.eval()


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, quantize to a tenth of the size, write files, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer recordings")
    parser.add_argument("--out", type=Path, default=Path("runs/keyword_lstm"), help="run directory")
    options = parser.parse_args(arguments)
    count = 1000 if options.quick else 4000
    train, test = spoken(count, 1), spoken(1000, 2)
    network = trained(train, 6 if options.quick else 12)

    result = sigmaquant.quantize(
        network,
        train,
        test_data=test,
        budget=sigmaquant.Budget(size="10x", size_counts="weights"),
        post_training=options.quick,
        run_dir=options.out,
        overwrite=True,
        **({"max_cycles": 2, "sensitivity_examples": 64} if options.quick else {}),
    )
    print(f"accuracy {result.scores.test:.3f}, float {result.float_scores.test:.3f}, plan {dict(result.plan.weights)}")

    kinds = ["packed", "onnx", "litert", *(["c"] if shutil.which("cc") else [])]
    verdicts = export_run(network, options.out, test, to=kinds, examples=200 if options.quick else None)
    for verdict in verdicts:
        assert verdict.agreement is not None
        said = "verified" if verdict.passed else verdict.first_difference
        print(f"{verdict.target}: {verdict.real_bytes} B, {said}; {100 * verdict.agreement.equal:.1f} % of codes equal")
    return {"result": result, "verdicts": verdicts}


if __name__ == "__main__":
    main()
