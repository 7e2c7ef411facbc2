"""Judge what a model paints: contrast of strokes, correlation, sharpness, and shares of two pictures.

Pictures are `(items, height, width)`, white background 1, strokes -1; strokes of a truth are its pixels
below 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lgbench.probe import Recorder

Pictures = NDArray[np.float32]


class Painted(Recorder):
    """Keeps pictures and numbers by name; it sees no scan, so fused kernels may serve."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__(layers)
        self.kept: dict[tuple, list[np.ndarray]] = {}

    def add(self, *name: object, values: np.ndarray) -> None:
        """Add the values of some items."""
        self.kept.setdefault(name, []).append(np.asarray(values, dtype=np.float32))

    def of(self, *name: object) -> np.ndarray:
        """Values of all items, one after another."""
        return np.concatenate(self.kept[name])


def as_bytes(pictures: np.ndarray) -> NDArray[np.uint8]:
    """Pictures to keep, 0 is a stroke and 255 background; what is painted beyond is cut off."""
    return np.round((np.clip(pictures.astype(float), -1, 1) + 1) * 127.5).astype(np.uint8)


def from_bytes(kept: NDArray[np.uint8]) -> Pictures:
    """Pictures in [-1, 1] again."""
    return (kept / np.float32(127.5) - 1).astype(np.float32)


def halved(pictures: Pictures) -> Pictures:
    """Pictures of half the size, means of two by two pixels; an odd last row or column is lost."""
    height, width = pictures.shape[-2] // 2, pictures.shape[-1] // 2
    even = pictures[..., : 2 * height, : 2 * width]
    return even.reshape(*pictures.shape[:-2], height, 2, width, 2).mean(axis=(-3, -1))


def most_ink(truth: Pictures) -> int:
    """The item with most strokes: the one that is shown."""
    return int((truth < 0).mean(axis=(1, 2)).argmax())


def no_pictures(items) -> str | None:
    """Why a probe of paintings cannot look at these items, or None."""
    return None if items.gallery_items else "it looks at what a model paints, and the task has no pictures"


def contrast(painted: Pictures, truth: Pictures) -> NDArray[np.float64]:
    """Mean of what is painted on the background minus that on the strokes, `(items,)`; 2 is perfect.

    NaN for a truth without strokes.
    """
    found = []
    for picture, real in zip(painted.astype(float), truth, strict=True):
        ink = real < 0
        found.append(picture[~ink].mean() - picture[ink].mean() if ink.any() and not ink.all() else np.nan)
    return np.array(found)


def correlation(painted: Pictures, truth: Pictures) -> NDArray[np.float64]:
    """Pearson's r over pixels, `(items,)`; 0 where the painting is one grey, NaN where the truth is."""
    one, other = (p.reshape(len(p), -1).astype(float) for p in (painted, truth))
    one, other = (p - p.mean(axis=1, keepdims=True) for p in (one, other))
    size = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    blank = np.linalg.norm(other, axis=1) == 0
    r = np.divide((one * other).sum(axis=1), size, out=np.zeros(len(one)), where=size > 0)
    return np.where(blank, np.nan, r)


def sharpness(painted: Pictures) -> NDArray[np.float64]:
    """Mean squared step between neighbours over the variance of pixels, `(items,)`: low is blurred.

    Contrast cancels, so that a weak but sharp picture is as sharp as a strong one.
    """
    painted = painted.astype(float)
    steps = np.square(np.diff(painted, axis=1)).mean(axis=(1, 2)) + np.square(np.diff(painted, axis=2)).mean(
        axis=(1, 2)
    )
    variance = painted.var(axis=(1, 2))
    return np.divide(steps, variance, out=np.full(len(painted), np.nan), where=variance > 0)


def shares(painted: Pictures, one: Pictures, other: Pictures) -> NDArray[np.float64]:
    """Least squares a, b, c of painted ≈ a · one + b · other + c, `(items, 3)`."""
    found = []
    for picture, first, second in zip(painted, one, other, strict=True):
        columns = np.stack([first.ravel(), second.ravel(), np.ones(first.size)], axis=1).astype(float)
        found.append(np.linalg.lstsq(columns, picture.ravel().astype(float), rcond=None)[0])
    return np.array(found)
