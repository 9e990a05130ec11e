"""Backgrounds made from formulas: gradients, stripes, checks, noise, sky over ground, wall over floor."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def backgrounds(count: int, *, size: int, generator: Generator) -> Tensor:
    """Random backgrounds in [0, 1], shape (count, 3, size, size).

    Half of them are one texture, half two textures that meet at a horizon. A texture runs between two
    colours along a pattern: gradient, waves, stripes, checks or smooth noise.
    """
    textures = texture(2 * count, size=size, generator=generator).view(2, count, 3, size, size)
    device = generator.device
    rows = torch.linspace(0, 1, size, device=device)
    horizon = 0.35 + 0.5 * _uniform(count, generator)
    horizon = torch.where(_uniform(count, generator) < 0.5, horizon, 2.0)
    tilt = 0.3 * (_uniform(count, generator) - 0.5)
    line = horizon[:, None, None] + tilt[:, None, None] * (rows[None, None, :] - 0.5)
    below = ((rows[None, :, None] - line) * size + 0.5).clamp_(0, 1)[:, None]
    return torch.lerp(textures[0], textures[1], below)


def texture(count: int, *, size: int, generator: Generator) -> Tensor:
    """Two colours mixed along one of five patterns; shape (count, 3, size, size)."""
    device = generator.device
    axis = torch.linspace(-1, 1, size, device=device)
    angle = 2 * math.pi * _uniform(count, generator)
    along = axis[None, None, :] * angle.cos()[:, None, None] + axis[None, :, None] * angle.sin()[:, None, None]
    across = axis[None, :, None] * angle.cos()[:, None, None] - axis[None, None, :] * angle.sin()[:, None, None]
    pitch = (6 + 24 * _uniform(count, generator))[:, None, None]
    hard = (1 + 9 * _uniform(count, generator))[:, None, None]
    kind = torch.randint(5, (count,), generator=generator, device=device)
    mix = along.mul(0.5).add(0.5)
    waves = kind == 1
    mix[waves] = (pitch[waves] * along[waves]).sin() * 0.5 + 0.5
    stripes = kind == 2
    mix[stripes] = (hard[stripes] * (pitch[stripes] * along[stripes]).sin()).clamp(-1, 1) * 0.5 + 0.5
    checks = kind == 3
    squares = (pitch[checks] * along[checks] * 0.7).sin() * (pitch[checks] * across[checks] * 0.7).sin()
    mix[checks] = (hard[checks] * squares).clamp(-1, 1) * 0.5 + 0.5
    clouds = (kind == 4).nonzero()[:, 0]
    for part, cells in zip(clouds.tensor_split(3), (3, 6, 12), strict=True):
        mix[part] = _smooth_noise(len(part), cells, size, generator)
    colours = _colours(count, generator)
    return torch.lerp(colours[0][:, :, None, None], colours[1][:, :, None, None], mix.clamp_(0, 1)[:, None])


def _smooth_noise(count: int, cells: int, size: int, generator: Generator) -> Tensor:
    coarse = torch.rand(count, 1, cells, cells, generator=generator, device=generator.device)
    return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)[:, 0]


def _colours(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """A colour for each, and a second one that is usually close to it, so that patterns are seldom glaring."""
    first = torch.rand(count, 3, generator=generator, device=generator.device)
    grey = first.mean(dim=1, keepdim=True)
    first = torch.lerp(grey.expand_as(first), first, 0.8 * _uniform(count, generator)[:, None])
    reach = 0.15 + 0.6 * _uniform(count, generator).square()
    second = first + reach[:, None] * torch.randn(count, 3, generator=generator, device=generator.device)
    return first, second.clamp_(0, 1)


def _uniform(count: int, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device)
