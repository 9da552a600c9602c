"""Tiny models and text that healing is tested on."""

from __future__ import annotations

import torch
from torch import nn

from sw.models.llama import Llama, LlamaConfig

VOCABULARY = 32


def tiny_llama(seed: int = 0, layers: int = 1, width: int = 32) -> Llama:
    """A random Llama; its head is tied to the embedding."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        width=width,
        hidden=48,
        layers=layers,
        heads=4,
        kv_heads=2,
        vocabulary=VOCABULARY,
        context=16,
    )
    model = Llama(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model.eval()


def tiny_text(windows: int = 24, length: int = 12, seed: int = 5) -> torch.Tensor:
    """Windows of random tokens, int64 ``[windows, length]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (windows, length), generator=generator)


class TinyVision(nn.Module):
    """A convolution and a linear layer, from images to classes."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.convolution = nn.Conv2d(2, 6, 3, padding=1)
        self.classes = nn.Linear(6 * 16, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images ``[B, 2, 4, 4]``."""
        y: torch.Tensor = self.classes(torch.relu(self.convolution(images)).flatten(1))
        return y
