"""Small networks that use what the front of the compiler has to know, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sw.compiler.graph import Graph
from sw.compiler.trace import trace

Made = tuple[nn.Module, tuple[Tensor, ...]]


class Formula(nn.Module):
    """A module whose forward is a function of it and its inputs."""

    def __init__(self, formula: Callable[..., object], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.formula = formula
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, *inputs: Tensor) -> object:
        return self.formula(self, *inputs)


def settled(model: nn.Module) -> nn.Module:
    """The module with batch norms that have seen data."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def cnn() -> Made:
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)),
        *(nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(), nn.Linear(12, 10), nn.Softmax(-1)),
    )
    return model, (torch.randn(2, 3, 7, 7),)


def depthwise() -> Made:
    model = nn.Sequential(
        *(nn.Conv2d(6, 6, 3, padding="same", groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.Hardswish(), nn.AdaptiveAvgPool2d(1)),
    )
    return model, (torch.randn(1, 6, 5, 5),)


def groups() -> Made:
    convolution = nn.Conv2d(8, 12, 3, groups=4, dilation=2)
    return nn.Sequential(convolution, nn.BatchNorm2d(12), nn.ReLU()), (torch.randn(1, 8, 7, 7),)


def transposed() -> Made:
    model = nn.Sequential(
        *(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), nn.SiLU()),
        *(nn.Upsample(scale_factor=2), nn.Conv2d(6, 2, 1, padding_mode="reflect", padding=0)),
    )
    return model, (torch.randn(1, 4, 3, 3),)


def conv1d() -> Made:
    model = nn.Sequential(
        *(nn.Conv1d(3, 8, 4, padding="same"), nn.BatchNorm1d(8), nn.GELU(), nn.AvgPool1d(2)),
        *(nn.Flatten(), nn.Linear(40, 6), nn.BatchNorm1d(6)),
    )
    return model, (torch.randn(2, 3, 10),)


def residual() -> Made:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(m.norm(m.first(x)))
        return F.relu(m.norm2(m.second(y)).add_(x) - y.mean((2, 3), keepdim=True))

    model = Formula(
        forward,
        first=nn.Conv2d(4, 4, 3, padding=1),
        norm=nn.BatchNorm2d(4),
        second=nn.Conv2d(4, 4, 3, padding=1),
        norm2=nn.BatchNorm2d(4),
    )
    return model, (torch.randn(1, 4, 5, 5),)


def shared() -> Made:
    """One convolution read twice, with and without the batch norm behind it."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.convolution(x)
        return m.norm(y) + m.norm(m.convolution(x * 2)) * y

    parts = {"convolution": nn.Conv2d(2, 3, 1), "norm": nn.BatchNorm2d(3)}
    return Formula(forward, **parts), (torch.randn(1, 2, 3, 3),)


def encoder() -> Made:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
    return layer, (torch.randn(1, 5, 16),)


def heads() -> Made:
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    model = Formula(lambda m, x: m.norm(m.attention(x, x, x)[0]), attention=attention)
    model.norm = nn.LayerNorm(16)
    return model, (torch.randn(2, 5, 16),)


def causal() -> Made:
    """A decoder's attention: RMS norm, rotary embedding, grouped queries, causal mask."""

    def turn(x: Tensor) -> Tensor:
        frequency = 1 / 100 ** (torch.arange(0, 4, 2).float() / 4)
        angle = torch.outer(torch.arange(x.shape[-2]).float(), frequency)
        angle = torch.cat((angle, angle), -1)
        rotated = torch.cat((-x[..., 2:], x[..., :2]), -1)
        return x * angle.cos() + rotated * angle.sin()

    def forward(m: nn.Module, tokens: Tensor) -> Tensor:
        x = m.norm(m.embedding(tokens))
        q, k, v = m.qkv(x).split((16, 8, 8), -1)
        q = q.view(*q.shape[:2], 4, 4).transpose(1, 2)
        k, v = (t.reshape(*t.shape[:2], 2, 4).transpose(1, 2) for t in (k, v))
        y = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True, enable_gqa=True)
        return x + m.out(y.transpose(1, 2).flatten(2))

    model = Formula(
        forward,
        embedding=nn.Embedding(20, 16),
        norm=nn.RMSNorm(16),
        qkv=nn.Linear(16, 32, bias=False),
        out=nn.Linear(16, 16, bias=False),
    )
    return model, (torch.randint(20, (1, 6)),)


def masked() -> Made:
    """Attention with a mask that hides everything from one query."""
    mask = torch.ones(3, 3, dtype=torch.bool).tril(-1)
    return Formula(
        lambda m, x: F.scaled_dot_product_attention(x, x, x, attn_mask=m.mask), mask=mask
    ), (torch.randn(1, 2, 3, 4),)


def recurrent() -> Made:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y, _ = m.gru(x)
        return m.lstm(y)[0][:, -1]

    gru, lstm = nn.GRU(4, 5, batch_first=True), nn.LSTM(5, 3, batch_first=True)
    return Formula(forward, gru=gru, lstm=lstm), (torch.randn(1, 3, 4),)


def products() -> Made:
    """Every other way to write a product."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = torch.addmm(m.b, x, m.w) + torch.baddbmm(m.b, x[None], m.w[None], alpha=2)[0]
        y = y + torch.einsum("bi,ij->bj", x, m.w) + (x @ m.w) + x.mm(m.w)
        return y + torch.mv(m.w, x[0]) + F.linear(x, m.w.t(), m.b).clamp(0, 2)

    return Formula(forward, w=torch.randn(4, 4), b=torch.randn(4)), (torch.randn(4, 4),)


def layouts() -> Made:
    """Views, copies and writes in place, which leave values where they are or move them."""

    def forward(m: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.clone().contiguous().detach()[:, 0:].expand(2, 6).view(3, 4).to(torch.float32)
        y = y.unsqueeze(0).squeeze(0).t().t().flatten().view(4, 3).reshape(2, 6)
        z = torch.empty(2, 6).fill_(2)
        z[:, 0] = y[:, 1]
        return y, z.relu_()

    return Formula(forward), (torch.randn(2, 6),)


NETWORKS: dict[str, Callable[[], Made]] = {
    made.__name__: made
    for made in (
        *(cnn, depthwise, groups, transposed, conv1d, residual, shared, encoder, heads, causal),
        *(masked, recurrent, products, layouts),
    )
}


def network(name: str) -> Made:
    """The network of this name in evaluation mode and inputs for it, always the same numbers."""
    torch.manual_seed(len(name))
    model, inputs = NETWORKS[name]()
    return settled(model).eval(), inputs


@cache
def traced(name: str) -> Graph:
    """The graph of the network of this name."""
    return trace(*network(name))


def eager(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What torch itself gives."""
    with torch.no_grad():
        result = model(*inputs)
    return result if isinstance(result, tuple) else (result,)
