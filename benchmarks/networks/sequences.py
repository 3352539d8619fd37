"""Recurrent networks and transformers that no library of the benchmark brings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LstmKws(nn.Module):
    """Keyword spotting by an LSTM over frames."""

    def __init__(self, features: int = 10, width: int = 64, classes: int = 12) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, num_layers=2, batch_first=True)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        return self.fc(y[:, -1])


class MnistLstm(nn.Module):
    """Rows of a digit as steps, all of them flattened into one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, 20, batch_first=True)
        self.fc = nn.Linear(28 * 20, 10)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.fc(self.lstm(x)[0].flatten(1)), dim=-1)


class GruKws(nn.Module):
    """Keyword spotting by a GRU, time first."""

    def __init__(self, features: int = 40, width: int = 64, classes: int = 12) -> None:
        super().__init__()
        self.gru = nn.GRU(features, width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.gru(x.transpose(0, 1))
        return self.fc(last.squeeze(0))


class Crnn(nn.Module):
    """Text or words in pictures of sound (Shi et al. 2015): convolutions, a recurrence over columns, letters."""

    def __init__(self, letters: int = 30) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out, pool in ((1, 16, (2, 2)), (16, 32, (2, 2)), (32, 64, (2, 1))):
            layers += [nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(pool)]
        self.cnn = nn.Sequential(*layers)
        self.rnn = nn.LSTM(64 * 4, 32, bidirectional=True)
        self.fc = nn.Linear(64, letters)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cnn(x)
        b, c, h, w = y.size()
        y = y.view(b, c * h, w).permute(2, 0, 1)
        y, _ = self.rnn(y)
        t, b, h = y.size()
        return F.log_softmax(self.fc(y.view(t * b, h)).view(t, b, -1), dim=2)


class Tagger(nn.Module):
    """A tag for each word by a bidirectional LSTM."""

    def __init__(self, words: int = 200, tags: int = 9) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 32, padding_idx=0)
        self.lstm = nn.LSTM(32, 32, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(64, tags)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(self.embedding(x))[0])


class EncoderDecoder(nn.Module):
    """A GRU reads a series, another one goes on with it for a fixed number of steps."""

    def __init__(self, width: int = 32, steps: int = 6) -> None:
        super().__init__()
        self.encoder = nn.GRU(3, width, batch_first=True)
        self.cell = nn.GRUCell(3, width)
        self.out = nn.Linear(width, 3)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        _, hidden = self.encoder(x)
        state, value = hidden[-1], x[:, -1]
        found = []
        for _ in range(self.steps):
            state = self.cell(value, state)
            value = self.out(state)
            found.append(value)
        return torch.stack(found, dim=1)


class VoiceActivity(nn.Module):
    """One step of an LSTM cell whose state goes in and out."""

    def __init__(self, features: int = 16, width: int = 32) -> None:
        super().__init__()
        self.conv = nn.Conv1d(features, width, 3)
        self.cell = nn.LSTMCell(width, width)
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = F.relu(self.conv(x)).mean(dim=2)
        h, c = self.cell(y, state)
        return torch.sigmoid(self.out(F.relu(h))), (h, c)


class ElmanForecast(nn.Module):
    """A plain recurrent network on a series."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 32, nonlinearity="relu", batch_first=True)
        self.fc = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[1][0])


class Kwt(nn.Module):
    """Keyword transformer (Berg et al. 2021): post-norm blocks over time frames, a class token."""

    class Block(nn.Module):
        def __init__(self, width: int, heads: int, hidden: int) -> None:
            super().__init__()
            self.heads = heads
            self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

        def forward(self, x: Tensor) -> Tensor:
            b, t, w = x.shape
            q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
            scores = (q @ k.transpose(-2, -1)) * (w // self.heads) ** -0.5
            y = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, t, w)
            x = self.norm1(x + self.proj(y))
            return self.norm2(x + self.mlp(x))

    def __init__(self, width: int = 64, depth: int = 3, heads: int = 1, classes: int = 35) -> None:
        super().__init__()
        self.embed = nn.Linear(40, width)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 99, width))
        self.blocks = nn.Sequential(*(self.Block(width, heads, 4 * width) for _ in range(depth)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.transpose(1, 2))
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1) + self.positions
        return self.head(self.blocks(x)[:, 0])


class Conformer(nn.Module):
    """Conformer blocks (Gulati et al. 2020) with torch's attention."""

    class Block(nn.Module):
        def __init__(self, width: int, heads: int = 4, kernel: int = 15) -> None:
            super().__init__()
            self.first, self.second = self._feed(width), self._feed(width)
            self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True)
            self.conv_norm = nn.LayerNorm(width)
            self.conv = nn.Sequential(
                nn.Conv1d(width, 2 * width, 1), nn.GLU(dim=1),
                nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width), nn.BatchNorm1d(width), nn.SiLU(),
                nn.Conv1d(width, width, 1),
            )  # fmt: skip
            self.last = nn.LayerNorm(width)

        @staticmethod
        def _feed(width: int) -> nn.Sequential:
            up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            return nn.Sequential(nn.LayerNorm(width), up, nn.SiLU(), nn.Dropout(0.1), down)

        def forward(self, x: Tensor) -> Tensor:
            x = x + 0.5 * self.first(x)
            y = self.norm(x)
            x = x + self.attention(y, y, y, need_weights=False)[0]
            x = x + self.conv(self.conv_norm(x).transpose(1, 2)).transpose(1, 2)
            return self.last(x + 0.5 * self.second(x))

    def __init__(self, mels: int = 40, width: int = 48, depth: int = 2, letters: int = 29) -> None:
        super().__init__()
        self.subsample = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.embed = nn.Linear(16 * (mels // 4), width)
        self.blocks = nn.ModuleList(self.Block(width) for _ in range(depth))
        self.out = nn.Linear(width, letters)

    def forward(self, x: Tensor) -> Tensor:
        y = self.subsample(x.unsqueeze(1))
        b, c, t, f = y.shape
        y = self.embed(y.transpose(1, 2).reshape(b, t, c * f))
        for block in self.blocks:
            y = block(y)
        return self.out(y).log_softmax(dim=-1)


class TinyLlama(nn.Module):
    """A decoder like Llama's without a cache: RMSNorm, rotary positions, SwiGLU, a causal mask."""

    class RmsNorm(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(width))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads, norm = heads, TinyLlama.RmsNorm
            self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
            self.gate, self.up = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, 3 * width, bias=False)
            self.down = nn.Linear(3 * width, width, bias=False)
            self.norm1, self.norm2 = norm(width), norm(width)

        def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            b, t, w = x.shape
            y = self.norm1(x)
            q, k, v = (f(y).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
            q, k = self.rotated(q, cos, sin), self.rotated(k, cos, sin)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, w)
            x = x + self.o(y)
            y = self.norm2(x)
            return x + self.down(F.silu(self.gate(y)) * self.up(y))

        @staticmethod
        def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            a, b = x.chunk(2, dim=-1)
            return x * cos + torch.cat((-b, a), dim=-1) * sin

    def __init__(self, words: int = 256, width: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(self.Block(width, heads) for _ in range(depth))
        self.norm = self.RmsNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embedding.weight
        self.size = width // heads

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        steps = torch.arange(tokens.shape[1], device=x.device).float()
        speed = 10000.0 ** (-torch.arange(0, self.size, 2, device=x.device).float() / self.size)
        angles = torch.outer(steps, speed).repeat(1, 2)
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin())
        return self.head(self.norm(x))


class MiniDetr(nn.Module):
    """Boxes from learned queries (Carion et al. 2020) on a few convolutions."""

    def __init__(self, width: int = 32, queries: int = 8, classes: int = 4) -> None:
        super().__init__()
        steps = ((3, 16), (16, 32), (32, width))
        blocks = (nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in steps)
        self.backbone = nn.Sequential(*blocks)
        self.transformer = nn.Transformer(width, 4, 1, 1, 64, batch_first=True)
        self.queries = nn.Parameter(torch.rand(queries, width))
        self.rows, self.columns = nn.Parameter(torch.rand(8, width // 2)), nn.Parameter(torch.rand(8, width // 2))
        self.classes, self.boxes = nn.Linear(width, classes + 1), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.backbone(x)
        h, w = y.shape[-2:]
        columns = self.columns[:w].unsqueeze(0).repeat(h, 1, 1)
        rows = self.rows[:h].unsqueeze(1).repeat(1, w, 1)
        positions = torch.cat([columns, rows], dim=-1).flatten(0, 1).unsqueeze(0)
        source = positions + 0.1 * y.flatten(2).permute(0, 2, 1)
        y = self.transformer(source, self.queries.unsqueeze(0).repeat(x.shape[0], 1, 1))
        return {"classes": self.classes(y), "boxes": self.boxes(y).sigmoid()}


class TextClassifier(nn.Module):
    """nn.TransformerEncoder over words with a padding mask."""

    def __init__(self, words: int = 200, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.positions = nn.Embedding(16, width)
        layer = nn.TransformerEncoderLayer(width, 4, 64, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(width, 3)

    def forward(self, words: Tensor) -> Tensor:
        places = torch.arange(words.size(1), device=words.device)
        x = self.embedding(words) + self.positions(places)
        x = self.encoder(x, src_key_padding_mask=words == 0)
        return self.out(x.mean(dim=1))
