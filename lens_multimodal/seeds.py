"""Random numbers that depend on the picture, not on what was drawn before it."""

import hashlib

import torch


def seed_for(seed: int, *names: object) -> int:
    """A 63-bit seed from the run's seed and any names (experiment, picture, purpose); the same on every machine."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for one purpose: `generator_for(context.picture.seed, "causal", scene.id)`."""
    return torch.Generator().manual_seed(seed_for(seed, *names))
