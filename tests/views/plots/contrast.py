"""Contrast of two colours as WCAG 2 (1.4.3) defines it."""

import re


def contrast(one: str, other: str) -> float:
    """Ratio of relative luminances: 1 is none, 21 black on white. Takes `#rrggbb` and `rgb(...)`."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    numbers = re.findall(r"\d+", colour)[:3]
    channels = numbers if colour.startswith("rgb") else [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (int(n) / 255 for n in channels)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
