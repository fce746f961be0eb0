"""The two networks: a local picture encoder and a small llama-like text decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ['Claims', 'Decoder', 'DecoderConfig', 'Encoder', 'Guide', 'NanoVLM']


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder; `attention_bias` is qwen2's, llama has none."""

    vocab_size: int
    attention_bias: bool
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 384
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    context: int = 4096

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


class _ConvBlock(nn.Module):
    """Convolution, batch norm, GELU. Borders are replicated: zeros would tell the position."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, pad: int) -> None:
        super().__init__()
        self.pad = pad
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (self.pad,) * 4, mode='replicate')
        return F.gelu(self.norm(self.conv(x)))


class Encoder(nn.Module):
    """pixel_values [n, 3, 224, 224] -> image_embeds [n, 64, width], row by row.

    Purely local and without position embedding: where a token lies is known only from its place
    in the decoder's sequence.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _ConvBlock(3, 32, 9, 7, 1),
            _ConvBlock(32, 64, 3, 1, 1),
            _ConvBlock(64, 128, 3, 2, 1),
            _ConvBlock(128, 256, 3, 2, 1),
        )
        self.residual = _ConvBlock(256, 256, 3, 1, 1)
        self.up = nn.Linear(256, 384)
        self.down = nn.Linear(384, width)
        self.norm = nn.LayerNorm(width)
        nn.init.constant_(self.norm.weight, 0.1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.stem(pixel_values)
        x = x + self.residual(x)
        x = x.flatten(2).transpose(1, 2)
        return self.norm(self.down(F.gelu(self.up(x))))


@dataclass
class Guide:
    """Positions whose attention should rest on given image tokens.

    `layer`, `head`: whose attention it is. `rows`, `columns` [g] say which position of the batch;
    `starts` [g] where its picture's tokens
    begin; `cells` [g, 64] which of them show the shape that is spoken of; `shares` [g] how much
    the position counts.
    """

    rows: Tensor
    columns: Tensor
    starts: Tensor
    cells: Tensor
    shares: Tensor
    layer: int = 2
    head: int = 0

    def mass(self, weights: Tensor) -> Tensor:
        """Return the mass [g] of attention weights [n, heads, length, length] on those tokens."""
        rows = weights[self.rows, self.head, self.columns]
        at = self.starts[:, None] + torch.arange(self.cells.shape[1])
        return (rows.gather(1, at).float() * self.cells).sum(1)

    def loss(self, mass: Tensor) -> Tensor:
        """Return minus the log of the attention's mass on the right tokens."""
        if not len(mass):
            return mass.sum()
        return -(mass.clamp_min(1e-4).log() * self.shares).sum() / self.shares.sum()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary embedding in the NEOX order: the first half pairs with the second."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class _Layer(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width, kv_width = config.width, config.kv_heads * config.head_size
        self.attention_norm = nn.RMSNorm(width, config.norm_eps)
        self.q = nn.Linear(width, width, bias=config.attention_bias)
        self.k = nn.Linear(width, kv_width, bias=config.attention_bias)
        self.v = nn.Linear(width, kv_width, bias=config.attention_bias)
        self.o = nn.Linear(width, width, bias=False)
        self.ff_norm = nn.RMSNorm(width, config.norm_eps)
        self.gate = nn.Linear(width, config.feed_forward, bias=False)
        self.up = nn.Linear(width, config.feed_forward, bias=False)
        self.down = nn.Linear(config.feed_forward, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        batch, length, _ = x.shape
        heads, kv_heads, size = self.config.heads, self.config.kv_heads, self.config.head_size
        y = self.attention_norm(x)
        q = self.q(y).view(batch, length, heads, size).transpose(1, 2)
        k = self.k(y).view(batch, length, kv_heads, size).transpose(1, 2)
        v = self.v(y).view(batch, length, kv_heads, size).transpose(1, 2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        # The queries that share a key head are stacked; on a CPU this beats SDPA.
        group = heads // kv_heads
        q = q.reshape(batch * kv_heads, group * length, size)
        k = k.reshape(batch * kv_heads, length, size)
        v = v.reshape(batch * kv_heads, length, size)
        scores = torch.baddbmm(mask.repeat(group, 1), q, k.transpose(1, 2), alpha=size**-0.5)
        weights = scores.softmax(-1)
        y = (weights @ v).view(batch, heads, length, size).transpose(1, 2)
        x = x + self.o(y.reshape(batch, length, -1))
        y = self.ff_norm(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return x, weights.view(batch, heads, length, length)


class Decoder(nn.Module):
    """Embedded tokens [n, length, width] -> logits [n, length, vocabulary]; embeddings tied."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
        nn.init.normal_(self.embedding.weight, std=0.08)
        for name, weight in self.layers.named_parameters():
            if weight.ndim == 2:
                depth = (
                    (2 * config.layers) ** -0.5
                    if name.endswith(('o.weight', 'down.weight'))
                    else 1.0
                )
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5 * 0.7 * depth)
            elif name.endswith('bias'):
                nn.init.zeros_(weight)

    def rope(self, length: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [length, head_size / 2]."""
        half = torch.arange(0, self.config.head_size, 2) / self.config.head_size
        angles = torch.arange(length)[:, None] * self.config.rope_theta**-half
        return angles.cos(), angles.sin()

    def forward(self, embeds: Tensor, guides: Sequence[Guide] = ()) -> tuple[Tensor, list[Tensor]]:
        """Return the last hidden states and the attention mass [g] of each guide."""
        length = embeds.shape[1]
        dtype = torch.bfloat16 if torch.is_autocast_enabled('cpu') else embeds.dtype
        cos, sin = (table.to(dtype) for table in self.rope(length))
        mask = torch.full((length, length), float('-inf'), dtype=dtype).triu(1)
        x, masses, before_last = embeds, [embeds.new_zeros(0)] * len(guides), embeds
        for index, layer in enumerate(self.layers):
            before_last = x
            x, weights = layer(x, cos, sin, mask)
            masses = [
                guide.mass(weights) if guide.layer == index else mass
                for guide, mass in zip(guides, masses, strict=True)
            ]
        return self.norm(x), masses, before_last


@dataclass
class Claims:
    """Words of questions that are true of the picture, or not.

    `rows`, `columns` [c] say which position of the batch; `truths` [c] are 1 or 0.
    """

    rows: Tensor
    columns: Tensor
    truths: Tensor

    def loss(self, model: NanoVLM, states: Tensor) -> Tensor:
        """Return how wrong the model's probe is about them."""
        if not len(self.rows):
            return states.new_zeros(())
        told = model.probe(states[self.rows, self.columns])[:, 0].float()
        return F.binary_cross_entropy_with_logits(told, self.truths)


class NanoVLM(nn.Module):
    """Encoder and decoder; image embeddings take the place of marked tokens."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.width)
        self.decoder = Decoder(config)
        self.probe = nn.Linear(config.width, 1)
        """Tells of a word's state before the last layer whether it is true; for training only."""

    def hidden(
        self,
        tokens: Tensor,
        is_image: Tensor,
        image_embeds: Tensor,
        guides: Sequence[Guide] = (),
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Run the decoder over tokens [n, length], pictures in where `is_image` is set."""
        embeds = self.decoder.embedding(tokens).float()
        flat = image_embeds.reshape(-1, embeds.shape[-1]).float()
        embeds = embeds.masked_scatter(is_image[..., None], flat)
        return self.decoder(embeds, guides)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the vocabulary's logits of hidden states [..., width]."""
        return hidden @ self.decoder.embedding.weight.to(hidden.dtype).T
