"""Networks for text, series and tables, in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VOCABULARY, LENGTH = 1000, 32


class TextTransformer(nn.Module):
    """Encoder layers of torch.nn over token and position embeddings; token 0 is padding."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        layer = nn.TransformerEncoderLayer(width, 4, 128, 0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        padding = x == 0
        h = self.tokens(x) + self.places(torch.arange(x.shape[1], device=x.device))
        h = self.encoder(h, src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1).float()
        return self.head((h * kept).sum(1) / kept.sum(1).clamp(min=1.0))


class PlainTransformer(nn.Module):
    """The same without padding, attention written out: matmul, softmax, matmul."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Parameter(torch.randn(LENGTH, width))
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, width))
        self.head = nn.Linear(width, 4)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1, self.heads, self.size).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.places
        q, k, v = self.split(self.q(h)), self.split(self.k(h)), self.split(self.v(h))
        weights = torch.softmax(q @ k.transpose(-2, -1) / self.size**0.5, dim=-1)
        mixed = (weights @ v).transpose(1, 2).contiguous().view(x.size(0), -1, self.heads * self.size)
        h = self.norm1(h + self.o(mixed))
        h = self.norm2(h + self.mlp(h))
        return self.head(h.mean(1))


class LSTMText(nn.Module):
    """Bidirectional LSTM; the last hidden states of both directions go to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.drop = nn.Embedding(VOCABULARY, 32, padding_idx=0), nn.Dropout(0.2)
        self.lstm = nn.LSTM(32, 48, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)
        self.head = nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(self.drop(self.tokens(x)))
        return self.head(torch.cat([hidden[-2], hidden[-1]], dim=1))


class GRUSeries(nn.Module):
    """GRU over a series of 8 values; its last output goes to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.gru(x)
        return self.head(out[:, -1, :])


class Tabular(nn.Module):
    """Float columns: the first six as they are, four more hold categories."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (5, 12, 3, 40)
        self.tables = nn.ModuleList(nn.Embedding(size, 4) for size in self.sizes)
        self.norm = nn.BatchNorm1d(6)
        self.body = nn.Sequential(
            nn.Linear(22, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Dropout(0.1),
            nn.Linear(64, 32), nn.SELU(), nn.Linear(32, 2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        ids = x[:, 6:].long()
        parts = [table(ids[:, i]) for i, table in enumerate(self.tables)]
        return self.body(torch.cat([self.norm(x[:, :6]), *parts], dim=1))


def conv1d() -> nn.Module:
    layers: list[nn.Module] = []
    for came, out in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv1d(came, out, 7, padding=3), nn.BatchNorm1d(out), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 6))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.Sigmoid(), nn.Linear(128, 10)
    )
