"""Handwriting that needs no download: invented alphabets drawn with a pen like that of Omniglot.

A character is a few strokes between anchors of a coarse grid: lines, corners, zigzags, arcs, waves, loops and
dots, in proportions that belong to its alphabet. A drawer repeats it with another size, slant, place and
unsteadiness. Sizes and ink follow those measured on the two small Omniglot sets (heights 39-84, widths 33-86
pixels from the 5th to the 95th percentile; 8.1 % of the pixels; pen 5 pixels wide). Our own; not a model of
any real script.

The bytes are the same everywhere: numpy never changes the numbers of `RandomState`, and paths are rounded to
whole pixels before the pen, which is of whole pixels too.
"""

import numpy as np

SIDE = 105
"""Height and width of an image in pixels."""

PEN = ((-2, 1), (-1, 2), (0, 2), (1, 2), (2, 1))
"""(row, half width) of the pen: 5 x 5 pixels without its corners."""

_NUM_POINTS = 256
"""Points along a stroke; even a stroke of 300 pixels is then drawn without gaps."""

_NUM_ATTEMPTS = 20
"""Strokes that are tried for a character at most; those that would run along an earlier one are dropped."""

_KINDS = ("line", "corner", "zigzag", "arc", "wave", "loop", "dot")


def draw(
    num_alphabets: int = 8, num_characters: int = 15, num_drawers: int = 20, seed: int = 0
) -> tuple[list[str], np.ndarray]:
    """Draw every character of every alphabet by every drawer.

    Args:
        num_alphabets: alphabets, each with a style of its own; at most 99.
        num_characters: characters in each alphabet; at most 99.
        num_drawers: images of each character.
        seed: decides every pixel.

    Returns:
        keys `Procedural_N/characterNN/IMAGE.png` in ascending order, and strokes, bool
        `(num_alphabets * num_characters * num_drawers, 105, 105)` in the same order, true where there is ink.
    """
    random = np.random.RandomState(seed)
    keys, images = [], []
    for alphabet in range(1, num_alphabets + 1):
        style = _Style(random)
        for character in range(1, num_characters + 1):
            paths = _write_by_hands(style.invent_character(random), num_drawers, random)
            images.append(_ink(paths))
            folder = f"Procedural_{alphabet:02d}/character{character:02d}"
            keys += [f"{folder}/{drawer:04d}.png" for drawer in range(1, num_drawers + 1)]
    return keys, np.concatenate(images)


class _Style:
    """What the characters of one alphabet have in common."""

    def __init__(self, random: np.random.RandomState) -> None:
        weights = random.gamma(1.0, size=len(_KINDS)) * (3.0, 2.0, 1.0, 3.0, 1.5, 1.5, 0.4)
        self.kind_weights = weights / weights.sum()
        self.ink = random.uniform(2.0, 3.2)
        self.columns = random.choice([2, 3])
        self.rows = random.choice([3, 4])
        self.has_head_bar = random.uniform() < 0.25

    def invent_character(self, random: np.random.RandomState) -> np.ndarray:
        """Strokes `(num_strokes, 256, 2)` as x, y, with y downward; the longer side of their box is 1."""
        anchors = np.array(
            [(x, y) for y in np.linspace(0, 1, self.rows) for x in np.linspace(0, 0.9, self.columns)]
        )
        strokes, wanted = [], self.ink * random.uniform(0.55, 1.4)
        if self.has_head_bar:
            strokes.append(_evenly(np.array([(0.0, 0.0), (0.9, 0.0)])))
        for _ in range(_NUM_ATTEMPTS):
            joined = bool(strokes) and random.uniform() < 0.65
            start = (
                strokes[-1][random.choice([0, 128, 255])] if joined else anchors[random.randint(len(anchors))]
            )
            stroke = _stroke(random.choice(_KINDS, p=self.kind_weights), start, anchors, random)
            if not strokes or _retraced(stroke, np.concatenate(strokes)) < 0.3:
                strokes.append(stroke)
            if sum(_length(stroke) for stroke in strokes) > wanted:
                break
        points = np.stack(strokes)
        low, high = points.min((0, 1)), points.max((0, 1))
        return (points - (low + high) / 2) / max(high - low)


def _stroke(kind: str, start: np.ndarray, anchors: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """One stroke `(256, 2)` that begins at `start`."""
    corners = [start]
    for _ in range(3):
        aside = np.abs(anchors - corners[-1])
        # Writing prefers upright and level lines to slanted ones.
        weights = np.where(np.hypot(*aside.T) > 0.3, np.where(aside.min(1) < 0.05, 1.0, 0.35), 0.0)
        corners.append(anchors[random.choice(len(anchors), p=weights / weights.sum())])
    corners = np.stack(corners)
    t = np.linspace(0, 1, _NUM_POINTS)[:, None]
    along = corners[1] - corners[0]
    across = np.array([-along[1], along[0]])
    bulge = random.choice([-1, 1]) * random.uniform(0.2, 0.6)
    if kind == "line":
        path = corners[:2]
    elif kind == "corner":
        path = corners[:3]
    elif kind == "zigzag":
        path = corners
    elif kind == "arc":
        path = corners[0] + t * along + 4 * bulge * t * (1 - t) * across
    elif kind == "wave":
        path = corners[0] + t * along + bulge * np.sin(2 * np.pi * t) * across
    elif kind == "loop":
        radii = random.uniform(0.13, 0.3, size=2)
        angle = (
            random.uniform(0, 2 * np.pi) + random.choice([-1, 1]) * 2 * np.pi * random.uniform(0.8, 1.05) * t
        )
        circle = np.hstack([np.cos(angle), np.sin(angle)]) * radii
        path = start + circle - circle[0]
    else:
        path = start + np.array([(0.0, 0.0), (0.02, 0.03)])
    return _evenly(path)


def _write_by_hands(strokes: np.ndarray, num_drawers: int, random: np.random.RandomState) -> np.ndarray:
    """A character as each drawer writes it.

    Args:
        strokes: `(num_strokes, 256, 2)` around the origin, longer side 1.

    Returns:
        pixels `(num_drawers, num_strokes, 256, 2)` as x, y.
    """
    shape = (num_drawers, len(strokes))
    centres = strokes.mean(1, keepdims=True)
    angle, grown = random.normal(0, 0.06, shape), np.exp(random.normal(0, 0.07, (*shape, 1, 1)))
    paths = np.einsum("dsij,spj->dspi", _rotations(angle), strokes - centres) * grown + centres
    paths += random.normal(0, 0.025, (*shape, 1, 2))

    # An unsteady hand: waves along the stroke, slow ones wide and quick ones narrow.
    t = np.linspace(0, 2 * np.pi, _NUM_POINTS)
    for frequency, width in ((0.5, 0.022), (1.3, 0.014), (4.0, 0.005), (9.0, 0.002)):
        phase = random.uniform(0, 2 * np.pi, (*shape, 1, 2))
        paths += random.normal(0, width, (*shape, 1, 2)) * np.sin(frequency * t[:, None] + phase)

    size = 60 * np.exp(random.normal(0, 0.16, (num_drawers, 1)) + random.normal(0, 0.08, (num_drawers, 2)))
    slant = random.normal(0, 0.1, (num_drawers, 1, 1))
    paths[..., 0] -= slant * paths[..., 1]
    paths = np.einsum("dij,dspj->dspi", _rotations(random.normal(0, 0.05, num_drawers)), paths)
    place = SIDE / 2 - 1 + random.normal(0, 4.5, (num_drawers, 2))
    return paths * size[:, None, None] + place[:, None, None]


def _ink(paths: np.ndarray) -> np.ndarray:
    """Draw paths `(num_images, num_strokes, 256, 2)` with the pen; bool `(num_images, 105, 105)`.

    A path that leaves the image is drawn along its edge, as in Omniglot.
    """
    pixels = np.clip(np.rint(paths).astype(np.int64), 2, SIDE - 3)
    centres = np.zeros((len(paths), SIDE, SIDE), dtype=bool)
    image = np.broadcast_to(np.arange(len(paths))[:, None, None], pixels.shape[:3])
    centres[image, pixels[..., 1], pixels[..., 0]] = True
    inked = np.zeros_like(centres)
    for row, half_width in PEN:
        for column in range(-half_width, half_width + 1):
            inked |= np.roll(centres, (row, column), axis=(1, 2))
    return inked


def _evenly(path: np.ndarray) -> np.ndarray:
    """The same path `(num_points, 2)` as 256 points at equal distances."""
    travelled = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    wanted = np.linspace(0, travelled[-1], _NUM_POINTS)
    return np.stack([np.interp(wanted, travelled, path[:, axis]) for axis in (0, 1)], axis=1)


def _retraced(stroke: np.ndarray, ink: np.ndarray) -> float:
    """The part of a stroke, 0 to 1, that runs closer than 0.1 to points that are already there."""
    gaps = stroke[::8, None] - ink[None, ::8]
    return float((np.hypot(gaps[..., 0], gaps[..., 1]).min(1) < 0.1).mean())


def _length(stroke: np.ndarray) -> float:
    return float(np.hypot(*np.diff(stroke, axis=0).T).sum())


def _rotations(angle: np.ndarray) -> np.ndarray:
    """Rotation matrices `(*angle.shape, 2, 2)`."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
