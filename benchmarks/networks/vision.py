"""Networks for images that no library of the benchmark brings: restoration, segmentation, detection, embeddings."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(into: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    layer = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class LeNet(nn.Module):
    """As PyTorch's tutorial has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 4 * 4, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, self.num_flat_features(x))
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))

    def num_flat_features(self, x: Tensor) -> int:
        features = 1
        for size in x.size()[1:]:
            features *= size
        return features


class VggCifar(nn.Module):
    """VGG-11 for 32 x 32, flattened by ``view(x.size(0), -1)``."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for step in (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"):
            if step == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers.append(conv(channels, step * width))
                channels = step * width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x.view(x.size(0), -1)
        return self.classifier(x)


class ResNetCifar(nn.Module):
    """ResNet-20 with parameterless shortcuts: every second pixel, missing channels filled with zeros."""

    class Block(nn.Module):
        def __init__(self, into: int, out: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(out)
            self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(out)
            self.grow = out - into

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.grow:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.grow // 2, self.grow // 2), "constant", 0)
            y += x
            return F.relu(y)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        blocks, into = [], 16
        for out, stride in ((16, 1), (32, 2), (64, 2)):
            for index in range(3):
                blocks.append(self.Block(into, out, stride if index == 0 else 1))
                into = out
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        x = F.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


class MobileNetVww(nn.Module):
    """MobileNetV1 of quarter width for visual wake words, as MLPerf Tiny has it, with softmax."""

    def __init__(self) -> None:
        super().__init__()
        steps = (
            (8, 16, 1),
            (16, 32, 2),
            (32, 32, 1),
            (32, 64, 2),
            (64, 64, 1),
            (64, 128, 2),
            (128, 128, 1),
            (128, 256, 2),
        )
        blocks = [nn.Sequential(conv(a, a, 3, s, groups=a), conv(a, b, 1)) for a, b, s in steps]
        self.features = nn.Sequential(conv(3, 8, 3, 2), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(256, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.classifier(self.features(x)), dim=1)


class PlainUNet(nn.Module):
    """U-Net with transposed convolutions and crops (Ronneberger et al. 2015)."""

    def __init__(self, width: int = 8, classes: int = 2) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(self._double(a, b) for a, b in zip((3, *sizes[:-1]), sizes, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(sizes))
        self.merge = nn.ModuleList(self._double(2 * a, a) for a in sizes[:-1])
        self.out = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _double(into: int, out: int) -> nn.Sequential:
        return nn.Sequential(conv(into, out), conv(out, out))

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for index, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if index else x)
            kept.append(x)
        for index in reversed(range(len(self.up))):
            x = self.up[index](x)
            side = kept[index]
            dy, dx = side.size(2) - x.size(2), side.size(3) - x.size(3)
            x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
            x = self.merge[index](torch.cat([side, x], dim=1))
        return self.out(x)


class FastScnn(nn.Module):
    """Two branches, pyramid pooling, upsampling by bilinear interpolation (Poudel et al. 2019), small."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.learn = nn.Sequential(conv(3, 16, 3, 2), conv(16, 16, 3, 2, groups=16), conv(16, 24, 1))
        self.deep = nn.Sequential(conv(24, 32, 3, 2), conv(32, 48, 3, 2))
        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(s), conv(48, 12, 1)) for s in (1, 2))
        self.squeeze = conv(48 + 24, 48, 1)
        self.high, self.low = nn.Conv2d(24, 48, 1), nn.Conv2d(48, 48, 1)
        self.out = nn.Conv2d(48, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        high = self.learn(x)
        low = self.deep(high)
        pooled = [F.interpolate(p(low), low.shape[2:], mode="bilinear", align_corners=True) for p in self.pools]
        low = self.squeeze(torch.cat([low, *pooled], 1))
        low = F.interpolate(low, size=high.shape[2:], mode="bilinear", align_corners=True)
        y = F.relu(self.high(high) + self.low(low))
        return F.interpolate(self.out(y), size, mode="bilinear", align_corners=True)


class Espcn(nn.Module):
    """Super resolution by pixel shuffle (Shi et al. 2016)."""

    def __init__(self, factor: int = 3) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 64, 5, 1, 2), nn.Tanh(), nn.Conv2d(64, 32, 3, 1, 1), nn.Tanh())
        self.last = nn.Sequential(nn.Conv2d(32, factor**2, 3, 1, 1), nn.PixelShuffle(factor))

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(self.last(self.first(x)), 0.0, 1.0)


class Edsr(nn.Module):
    """Residual blocks without norms, mean shifts at both ends (Lim et al. 2017), small."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(True), nn.Conv2d(width, width, 3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x).mul(0.1)

    def __init__(self, width: int = 32, blocks: int = 4, factor: int = 2) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1))
        self.head = nn.Conv2d(3, width, 3, 1, 1)
        self.body = nn.Sequential(*(self.Block(width) for _ in range(blocks)), nn.Conv2d(width, width, 3, 1, 1))
        up = (nn.Conv2d(width, width * factor**2, 3, 1, 1), nn.PixelShuffle(factor))
        self.tail = nn.Sequential(*up, nn.Conv2d(width, 3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x - self.mean)
        return self.tail(self.body(x) + x) + self.mean


class Fsrcnn(nn.Module):
    """PReLU and a transposed convolution (Dong et al. 2016)."""

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, 32, 5, padding=2), nn.PReLU(32), nn.Conv2d(32, 8, 1), nn.PReLU(8)]
        for _ in range(2):
            layers += [nn.Conv2d(8, 8, 3, padding=1), nn.PReLU(8)]
        layers += [nn.Conv2d(8, 32, 1), nn.PReLU(32)]
        self.body = nn.Sequential(*layers)
        self.up = nn.ConvTranspose2d(32, 1, 9, stride=factor, padding=4, output_padding=factor - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.body(x))


class StyleNet(nn.Module):
    """Style transfer (Johnson et al. 2016): reflected borders, instance norms, nearest upsampling."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def block(into: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
            pad = nn.ReflectionPad2d(kernel // 2)
            return nn.Sequential(
                pad, nn.Conv2d(into, out, kernel, stride), nn.InstanceNorm2d(out, affine=True), nn.ReLU()
            )

        self.down = nn.Sequential(block(3, width, 9), block(width, 2 * width, 3, 2))
        self.middle = block(2 * width, 2 * width, 3)
        self.up = block(2 * width, width, 3)
        self.last = nn.Sequential(nn.ReflectionPad2d(4), nn.Conv2d(width, 3, 9))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        x = x + self.middle(x)
        return self.last(self.up(F.interpolate(x, scale_factor=2, mode="nearest")))


class ConvAutoencoder(nn.Module):
    """Strided convolutions down, transposed ones up, sigmoid at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(1, 16, 3, 2), conv(16, 32, 3, 2), nn.Conv2d(32, 8, 3, 2, 1))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 32, 3, 2, 1, output_padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 3, 2, 1, output_padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class DenseAutoencoder(nn.Module):
    """Machine sounds, as MLPerf Tiny has it: 640 features."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (640, 128, 128, 128, 8, 128, 128, 128, 640)
        layers: list[nn.Module] = []
        for into, out in pairwise(sizes):
            layers += [nn.Linear(into, out), nn.BatchNorm1d(out), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-2])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Vae(nn.Module):
    """A variational autoencoder that gives the mean in evaluation, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(1, 16, 3, 2), conv(16, 32, 3, 2), nn.Flatten())
        self.mean, self.log_variance = nn.Linear(32 * 49, 16), nn.Linear(32 * 49, 16)
        self.expand = nn.Linear(16, 32 * 49)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.encoder(x)
        mean, log_variance = self.mean(y), self.log_variance(y)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance) if self.training else mean
        return self.decoder(self.expand(z).view(-1, 32, 7, 7)), mean, log_variance


class MobileFaceNet(nn.Module):
    """Face embeddings (Chen et al. 2018): PReLU, a global depthwise convolution, unit length."""

    class Bottleneck(nn.Module):
        def __init__(self, into: int, out: int, stride: int) -> None:
            super().__init__()
            wide = 2 * into
            self.connect = stride == 1 and into == out
            self.conv = nn.Sequential(
                nn.Conv2d(into, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.PReLU(wide),
                nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.PReLU(wide),
                nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x) if self.connect else self.conv(x)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.PReLU(32))
        block = self.Bottleneck
        self.blocks = nn.Sequential(block(32, 32, 2), block(32, 32, 1), block(32, 64, 2), block(64, 64, 1))
        self.wide = nn.Sequential(nn.Conv2d(64, 128, 1, bias=False), nn.BatchNorm2d(128), nn.PReLU(128))
        self.depthwise = nn.Sequential(nn.Conv2d(128, 128, 8, groups=128, bias=False), nn.BatchNorm2d(128))
        self.embed = nn.Sequential(nn.Conv2d(128, 64, 1, bias=False), nn.BatchNorm2d(64))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(self.depthwise(self.wide(self.blocks(self.first(x)))))
        return F.normalize(x.view(x.size(0), -1))


class SpeakerEmbedding(nn.Module):
    """An x-vector (Snyder et al. 2018): statistics over time, unit length by hand."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out, kernel, dilation in ((24, 64, 5, 1), (64, 64, 3, 2), (64, 64, 3, 3), (64, 128, 1, 1)):
            layers += [nn.Conv1d(into, out, kernel, dilation=dilation), nn.ReLU(), nn.BatchNorm1d(out)]
        self.frames = nn.Sequential(*layers)
        self.segment = nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.frames(x)
        x = self.segment(torch.cat([x.mean(dim=2), x.std(dim=2)], dim=1))
        return x / x.norm(p=2, dim=1, keepdim=True)


class FastestDet(nn.Module):
    """One head on three scales brought together, like FastestDet: objectness, boxes and classes in one map."""

    class Shuffle(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            half = channels // 2
            self.branch = nn.Sequential(
                conv(half, half, 1), nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False), nn.BatchNorm2d(half),
                conv(half, half, 1),
            )  # fmt: skip

        def forward(self, old: Tensor) -> Tensor:
            proceed, x = self.shuffled(old)
            return torch.cat((proceed, self.branch(x)), 1)

        @staticmethod
        def shuffled(x: Tensor) -> tuple[Tensor, Tensor]:
            n, c, h, w = x.data.size()
            x = x.reshape(n * c // 2, 2, h * w)
            x = x.permute(1, 0, 2)
            x = x.reshape(2, -1, c // 2, h, w)
            return x[0], x[1]

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1))
        self.stage2 = nn.Sequential(conv(24, 48, 3, 2), self.Shuffle(48))
        self.stage3 = nn.Sequential(conv(48, 96, 3, 2), self.Shuffle(96))
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.average = nn.AvgPool2d(3, 2, 1)
        self.neck = conv(24 + 48 + 96, 48, 1)
        self.objectness = nn.Sequential(conv(48, 48, 1), nn.Conv2d(48, 1, 1))
        self.boxes = nn.Sequential(conv(48, 48, 1), nn.Conv2d(48, 4, 1))
        self.classes = nn.Sequential(conv(48, 48, 1), nn.Conv2d(48, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        second = self.stage2(first)
        third = self.stage3(second)
        y = self.neck(torch.cat((self.average(first), second, self.upsample(third)), dim=1))
        return torch.cat((self.objectness(y).sigmoid(), self.boxes(y), self.classes(y).softmax(dim=1)), dim=1)


class PoseNet(nn.Module):
    """Heat maps by transposed convolutions ("simple baselines", Xiao et al. 2018)."""

    def __init__(self, joints: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2), conv(32, 64, 3, 2))
        self.deconvolutions = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
            nn.ConvTranspose2d(32, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.final = nn.Conv2d(32, joints, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.deconvolutions(self.features(x)))


class DepthNet(nn.Module):
    """Depth from one image, disparities at two scales as a dict, like Monodepth2's decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.e1, self.e2, self.e3 = conv(3, 16, 3, 2), conv(16, 32, 3, 2), conv(32, 64, 3, 2)
        self.d2, self.d1 = self._block(64 + 32, 32), self._block(32 + 16, 16)
        self.h2, self.h1 = nn.Conv2d(32, 1, 3, padding=1, padding_mode="reflect"), nn.Conv2d(16, 1, 3, padding=1)

    @staticmethod
    def _block(into: int, out: int) -> nn.Sequential:
        return nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(into, out, 3), nn.ELU(inplace=True))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = (x - 0.45) / 0.225
        a = self.e1(x)
        b = self.e2(a)
        y = F.interpolate(self.e3(b), scale_factor=2, mode="nearest")
        y = self.d2(torch.cat([y, b], 1))
        coarse = torch.sigmoid(self.h2(y))
        y = self.d1(torch.cat([F.interpolate(y, scale_factor=2, mode="nearest"), a], 1))
        return {"fine": torch.sigmoid(self.h1(y)), "coarse": coarse}


class Siamese(nn.Module):
    """Two images, one network, their difference."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(1, 16, 3, 2), conv(16, 32, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.out = nn.Linear(32, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.out(torch.abs(self.features(a) - self.features(b)))


class ImageAndTable(nn.Module):
    """An image and a few numbers beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.table = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.out = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.out(torch.cat([self.image(image), self.table(table)], dim=1))


class PointNet(nn.Module):
    """Points in space (Qi et al. 2017), without its transforms."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv1d(into, out, 1), nn.BatchNorm1d(out), nn.ReLU()]
        self.points = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max(self.points(x), 2, keepdim=True)[0]
        return F.log_softmax(self.head(x.view(-1, 128)), dim=-1)


class VideoNet(nn.Module):
    """3-d convolutions on a few frames."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out in ((3, 8), (8, 16), (16, 32)):
            layers += [nn.Conv3d(into, out, 3, padding=1, bias=False), nn.BatchNorm3d(out), nn.ReLU(), nn.MaxPool3d(2)]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean(dim=(2, 3, 4)))
