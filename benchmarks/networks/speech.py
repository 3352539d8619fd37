"""Networks for sound and other signals, written after their papers, small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv2d(into: int, out: int, kernel: int | tuple[int, int], **options: object) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, kernel, bias=False, **options), nn.BatchNorm2d(out), nn.ReLU())


class DsCnn(nn.Module):
    """Depthwise-separable keyword spotting (Zhang et al. 2017), as MLPerf Tiny has it: 49 frames of 10 coefficients."""

    def __init__(self, width: int = 64, classes: int = 12) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_conv2d(1, width, (10, 4), stride=2, padding=(5, 1)), nn.Dropout(0.2)]
        for _ in range(4):
            blocks += [_conv2d(width, width, 3, padding=1, groups=width), _conv2d(width, width, 1)]
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.features(x), (25, 5))
        return self.classifier(x.view(x.size(0), -1))


class TcResNet(nn.Module):
    """Temporal convolution (Choi et al. 2019): the coefficients are channels."""

    class Block(nn.Module):
        def __init__(self, into: int, out: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv1d(into, out, 9, stride=2, padding=4, bias=False)
            self.bn1 = nn.BatchNorm1d(out)
            self.conv2 = nn.Conv1d(out, out, 9, padding=4, bias=False)
            self.bn2 = nn.BatchNorm1d(out)
            self.shortcut = nn.Sequential(nn.Conv1d(into, out, 1, stride=2, bias=False), nn.BatchNorm1d(out), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(y + self.shortcut(x))

    def __init__(self, coefficients: int = 40, classes: int = 12) -> None:
        super().__init__()
        self.conv = nn.Conv1d(coefficients, 16, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*(self.Block(a, b) for a, b in ((16, 24), (24, 32), (32, 48))))
        self.fc = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.conv(x)).mean(dim=2))


class SubSpectralNorm(nn.Module):
    """A BatchNorm for each band of frequencies (Chang et al. 2021)."""

    def __init__(self, channels: int, bands: int = 5) -> None:
        super().__init__()
        self.bands = bands
        self.bn = nn.BatchNorm2d(channels * bands)

    def forward(self, x: Tensor) -> Tensor:
        n, c, f, t = x.size()
        x = x.view(n, c * self.bands, f // self.bands, t)
        return self.bn(x).view(n, c, f, t)


class BcResNet(nn.Module):
    """Broadcasted residual learning (Kim et al. 2021)."""

    class Block(nn.Module):
        def __init__(self, into: int, out: int, stride: int = 1, dilation: int = 1) -> None:
            super().__init__()
            self.widen = None if into == out else _conv2d(into, out, 1)
            self.frequency = nn.Conv2d(out, out, (3, 1), (stride, 1), (1, 0), groups=out, bias=False)
            self.norm = SubSpectralNorm(out)
            wide = {"padding": (0, dilation), "dilation": (1, dilation)}
            self.time = nn.Conv2d(out, out, (1, 3), **wide, groups=out, bias=False)
            self.bn = nn.BatchNorm2d(out)
            self.mix = nn.Sequential(nn.Conv2d(out, out, 1), nn.Dropout2d(0.1))

        def forward(self, x: Tensor) -> Tensor:
            y = x if self.widen is None else self.widen(x)
            y = self.norm(self.frequency(y))
            z = F.avg_pool2d(y, (y.size(2), 1))  # one row, broadcast over all frequencies below
            z = self.mix(F.silu(self.bn(self.time(z))))
            y = y + z
            return F.relu(y + x if self.widen is None else y)

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        block = self.Block
        self.head = _conv2d(1, 16, 5, stride=(2, 1), padding=2)
        self.body = nn.Sequential(
            block(16, 8), block(8, 8), block(8, 12, 2, 2), block(12, 12, 1, 2), block(12, 16, 2, 4), block(16, 16, 1, 4)
        )
        self.depthwise = nn.Conv2d(16, 16, 5, groups=16, padding=(0, 2))
        self.last = nn.Conv2d(16, 32, 1)
        self.classifier = nn.Conv2d(32, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.depthwise(self.body(self.head(x))))
        x = self.classifier(x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True))
        return x.view(x.shape[0], x.shape[1])


class M5(nn.Module):
    """Raw waveforms (Dai et al. 2017), as PyTorch's tutorial has it, log-softmax at the end."""

    def __init__(self, classes: int = 35, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, width, kernel_size=80, stride=16)
        self.bn1 = nn.BatchNorm1d(width)
        self.pool1 = nn.MaxPool1d(4)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3)
        self.bn2 = nn.BatchNorm1d(width)
        self.pool2 = nn.MaxPool1d(4)
        self.conv3 = nn.Conv1d(width, 2 * width, kernel_size=3)
        self.bn3 = nn.BatchNorm1d(2 * width)
        self.pool3 = nn.MaxPool1d(4)
        self.fc1 = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(F.relu(self.bn1(self.conv1(x))))
        x = self.pool2(F.relu(self.bn2(self.conv2(x))))
        x = self.pool3(F.relu(self.bn3(self.conv3(x))))
        x = F.avg_pool1d(x, x.shape[-1])
        x = x.permute(0, 2, 1)
        return F.log_softmax(self.fc1(x), dim=2)


class Tcn(nn.Module):
    """Causal dilated convolutions with residuals (Bai et al. 2018); the padding is chomped off behind."""

    class Chomp(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.size = size

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, : -self.size].contiguous()

    class Block(nn.Module):
        def __init__(self, into: int, out: int, dilation: int) -> None:
            super().__init__()
            pad = 2 * dilation
            layers: list[nn.Module] = []
            for source in (into, out):
                layers += [
                    nn.Conv1d(source, out, 3, padding=pad, dilation=dilation),
                    Tcn.Chomp(pad),
                    nn.ReLU(),
                    nn.Dropout(0.2),
                ]
            self.net = nn.Sequential(*layers)
            self.downsample = nn.Conv1d(into, out, 1) if into != out else None

        def forward(self, x: Tensor) -> Tensor:
            residual = x if self.downsample is None else self.downsample(x)
            return F.relu(self.net(x) + residual)

    def __init__(self, channels: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.tcn = nn.Sequential(self.Block(channels, 24, 1), self.Block(24, 24, 2), self.Block(24, 24, 4))
        self.linear = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.tcn(x)[:, :, -1])


class WaveNet(nn.Module):
    """Gated dilated convolutions with skips (van den Oord et al. 2016)."""

    def __init__(self, width: int = 16, layers: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, width, 1)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(layers))
        self.residuals = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.skips = nn.ModuleList(nn.Conv1d(width, 32, 1) for _ in range(layers))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv1d(32, 32, 1), nn.ReLU(), nn.Conv1d(32, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        total: Tensor | float = 0.0
        for index, (gate, residual, skip) in enumerate(zip(self.gates, self.residuals, self.skips, strict=True)):
            values, gates = gate(F.pad(x, (2**index, 0))).chunk(2, dim=1)
            y = torch.tanh(values) * torch.sigmoid(gates)
            total = total + skip(y)
            x = x + residual(y)
        return self.last(total)


class QuartzNet(nn.Module):
    """Time-channel separable convolutions for speech recognition (Kriman et al. 2020): letters by frame."""

    class Block(nn.Module):
        def __init__(self, into: int, out: int, kernel: int, repeats: int = 2) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for index in range(repeats):
                source = into if index == 0 else out
                layers += [
                    nn.Conv1d(source, source, kernel, padding=kernel // 2, groups=source, bias=False),
                    nn.Conv1d(source, out, 1, bias=False),
                    nn.BatchNorm1d(out),
                ]
                if index + 1 < repeats:
                    layers += [nn.ReLU(), nn.Dropout(0.1)]
            self.net = nn.Sequential(*layers)
            self.residual = nn.Sequential(nn.Conv1d(into, out, 1, bias=False), nn.BatchNorm1d(out))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.net(x) + self.residual(x))

    def __init__(self, mels: int = 64, letters: int = 29) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(mels, 64, 33, stride=2, padding=16, bias=False), nn.BatchNorm1d(64), nn.ReLU()
        )
        self.blocks = nn.Sequential(self.Block(64, 64, 33), self.Block(64, 96, 39), self.Block(96, 96, 51))
        self.out = nn.Conv1d(96, letters, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.out(self.blocks(self.stem(x))).transpose(1, 2), dim=-1)


class EegNet(nn.Module):
    """EEG classification (Lawhern et al. 2018)."""

    def __init__(self, electrodes: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.temporal = nn.Sequential(nn.Conv2d(1, 8, (1, 32), padding="same", bias=False), nn.BatchNorm2d(8))
        self.spatial = nn.Sequential(nn.Conv2d(8, 16, (electrodes, 1), groups=8, bias=False), nn.BatchNorm2d(16))
        self.separable = nn.Sequential(
            nn.Conv2d(16, 16, (1, 16), padding=(0, 8), groups=16, bias=False),
            nn.Conv2d(16, 16, 1, bias=False),
            nn.BatchNorm2d(16),
        )
        self.classifier = nn.Linear(16 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.elu(self.spatial(self.temporal(x))), (1, 4))
        x = F.avg_pool2d(F.elu(self.separable(x)), (1, 8))
        return self.classifier(torch.flatten(x, 1))


class ConvTasNet(nn.Module):
    """Separation of two voices in the time domain (Luo & Mesgarani 2019), BatchNorm for its norms."""

    def __init__(self, basis: int = 32, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, basis, 16, stride=8, bias=False)
        self.bottleneck = nn.Conv1d(basis, width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, 2 * width, 1),
                nn.PReLU(),
                nn.BatchNorm1d(2 * width),
                nn.Conv1d(2 * width, 2 * width, 3, padding=2**i, dilation=2**i, groups=2 * width),
                nn.PReLU(),
                nn.BatchNorm1d(2 * width),
                nn.Conv1d(2 * width, width, 1),
            )
            for i in range(3)
        )
        self.masks = nn.Conv1d(width, 2 * basis, 1)
        self.decoder = nn.ConvTranspose1d(basis, 1, 16, stride=8, bias=False)
        self.basis = basis

    def forward(self, x: Tensor) -> Tensor:
        encoded = F.relu(self.encoder(x))
        y = self.bottleneck(encoded)
        for block in self.blocks:
            y = y + block(y)
        masks = torch.sigmoid(self.masks(F.relu(y))).view(x.shape[0], 2, self.basis, -1)
        separated = (masks * encoded.unsqueeze(1)).flatten(0, 1)
        return self.decoder(separated).view(x.shape[0], 2, -1)
