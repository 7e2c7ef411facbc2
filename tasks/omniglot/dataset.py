"""Handwritten characters as one array of bytes: Omniglot in full, its small sets, or procedural glyphs."""

import hashlib
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from lgbench.tasks.omniglot import glyphs
from PIL import Image

from lgbench.data import fetch, sources
from lgbench.errors import CannotWrite, UserError
from lgbench.safe_text import excerpt
from lgbench.store.files import atomic_file, collect_temporary

SIDE = 105
"""Height and width of an image in pixels."""

MOST_IMAGE_BYTES = 1 << 16
"""Of the file of an image."""

NUM_DRAWERS = 20
"""Images of each character, one a person."""

FULL_FILES = ("images_background.zip", "images_evaluation.zip")
SMALL_FILES = ("images_background_small1.zip", "images_background_small2.zip")
HELD_OUT_SMALL = ("Sanskrit", "Tagalog")
HELD_OUT_SMALL1_ALONE = ("Balinese", "Early_Aramaic")
"""For those who have only the first small file, which lacks Sanskrit and Tagalog."""

_MEMBER = re.compile(r"[^/]+/(?P<character>[^/]+/character\d+)/(?P<image>[^/]+\.png)?")
_DECODED_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OmniglotData:
    """Images with their split. No character, and no alphabet, is on both sides of it."""

    images: np.ndarray
    """uint8 `(num_images, 105, 105)`: 0 is stroke, 255 is white."""

    alphabets: tuple[str, ...]
    alphabet_ids: np.ndarray
    """int64 `(num_images,)`, index into `alphabets`."""

    characters: tuple[str, ...]
    """`ALPHABET/characterNN`."""

    character_ids: np.ndarray
    """int64 `(num_images,)`, index into `characters`."""

    train: np.ndarray
    eval: np.ndarray
    """int64 indices into `images`, ascending."""

    source: Literal["omniglot", "omniglot-small", "procedural"]

    fingerprint: str
    """16 hex digits that change with any pixel and with the split."""

    notice: str
    """A sentence for the screen when the real data could not be had; else empty."""


def load(
    data: Literal["auto", "omniglot", "procedural"] = "auto",
    data_dir: str | Path | None = None,
    held_out: tuple[str, ...] | None = None,
) -> OmniglotData:
    """Images and split, from the best source at hand.

    Args:
        data: `omniglot` takes the full set if it is on this machine, else the small sets if they are, else
            downloads the full set. `auto` does the same and falls back to procedural glyphs where the
            download fails. `procedural` draws the glyphs.
        data_dir: folder to look into first, see `fetch`.
        held_out: alphabets to evaluate on. By default Sanskrit and Tagalog for the small sets and the last
            two alphabets of the glyphs. The full set is split as published and takes no choice.

    Raises:
        UserError: real data was insisted on and cannot be had; a file is damaged; a name in `held_out` is no
            alphabet of the source, or none would remain for training.
    """
    if data not in ("auto", "omniglot", "procedural"):
        raise UserError(f"data must be auto, omniglot or procedural, got {data!r}")
    if data == "procedural":
        return _procedural(
            held_out,
            "Procedural glyphs as asked for; their numbers are not comparable with those of Omniglot.",
        )
    small = [name for name in SMALL_FILES if fetch.find(name, data_dir)]
    if small and not all(fetch.find(name, data_dir) for name in FULL_FILES):
        return _small([fetch.fetch(name, data_dir) for name in small], held_out)
    try:
        paths = [fetch.fetch(name, data_dir) for name in FULL_FILES]
    except fetch.DownloadError as error:
        if data == "omniglot":
            raise
        why = error.reason.partition(": ")[2].split(", ")[0]  # without the address, which no figure needs
        notice = (
            f"No Omniglot on this machine ({why}). Procedural glyphs are used instead; "
            "their numbers are not comparable with those of real Omniglot."
        )
        return _procedural(held_out, notice)
    return _full(paths, held_out)


def _full(paths: list[Path], held_out: tuple[str, ...] | None) -> OmniglotData:
    if held_out is not None:
        raise UserError(
            f"held_out={','.join(held_out)} is not for full Omniglot, whose split is published; leave it out"
        )
    (train_keys, train_bits), (eval_keys, eval_bits) = (_read(path) for path in paths)
    held_out = tuple(sorted({_alphabet(key) for key in eval_keys}))
    shared = {_alphabet(key) for key in train_keys} & set(held_out)
    if shared:
        raise UserError(f"{paths[0]} and {paths[1]} share the alphabets {', '.join(sorted(shared))}")
    return _assemble(train_keys + eval_keys, np.concatenate([train_bits, eval_bits]), held_out, "omniglot")


def _small(paths: list[Path], held_out: tuple[str, ...] | None) -> OmniglotData:
    """Union of the small sets; Greek and Latin are in both and are taken once."""
    parts = [_read(path) for path in paths]
    place = {key: at for at, key in enumerate(key for keys, _ in parts for key in keys)}
    keys, bits = list(place), np.concatenate([bits for _, bits in parts])[list(place.values())]
    if held_out is None:
        has_default = set(HELD_OUT_SMALL) <= {_alphabet(key) for key in keys}
        held_out = HELD_OUT_SMALL if has_default else HELD_OUT_SMALL1_ALONE
    return _assemble(keys, bits, held_out, "omniglot-small")


def _procedural(held_out: tuple[str, ...] | None, notice: str) -> OmniglotData:
    keys, strokes = glyphs.draw()
    if held_out is None:
        held_out = tuple(sorted({_alphabet(key) for key in keys})[-2:])
    bits = np.packbits(~strokes.reshape(len(strokes), -1), axis=1)
    return _assemble(keys, bits, held_out, "procedural", notice)


def _assemble(
    keys: list[str], bits: np.ndarray, held_out: tuple[str, ...], source: str, notice: str = ""
) -> OmniglotData:
    """Sort images by key, number alphabets and characters, split, unpack.

    Args:
        keys: `ALPHABET/characterNN/IMAGE.png` of each image, each once.
        bits: uint8 `(num_images, 1379)`, pixels packed row by row, 1 is white.
        held_out: alphabets to evaluate on.
    """
    order = sorted(range(len(keys)), key=keys.__getitem__)
    keys, bits = [keys[at] for at in order], bits[order]
    alphabets, alphabet_ids = _number(_alphabet(key) for key in keys)
    characters, character_ids = _number(key.rpartition("/")[0] for key in keys)
    unknown = sorted(set(held_out) - set(alphabets))
    if unknown or not held_out or set(held_out) == set(alphabets):
        reason = (
            f"there is no {', '.join(unknown)}" if unknown else "some must be held out and some must remain"
        )
        raise UserError(
            f"held_out={','.join(held_out)}: {reason}. The alphabets of {source} are {', '.join(alphabets)}"
        )
    is_eval = np.isin(alphabet_ids, [alphabets.index(name) for name in held_out])
    train, evaluation = np.flatnonzero(~is_eval), np.flatnonzero(is_eval)
    digest = hashlib.sha256(np.ascontiguousarray(bits))
    for indices in (train, evaluation):
        digest.update(indices.astype("<i8").tobytes())
    images = np.unpackbits(bits, axis=1, count=SIDE * SIDE).reshape(-1, SIDE, SIDE)
    images *= 255
    return OmniglotData(
        images=images,
        alphabets=alphabets,
        alphabet_ids=alphabet_ids,
        characters=characters,
        character_ids=character_ids,
        train=train,
        eval=evaluation,
        source=source,
        fingerprint=digest.hexdigest()[:16],
        notice=notice,
    )


def _alphabet(key: str) -> str:
    return key.split("/", 1)[0]


def _number(names: Iterable[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Sorted distinct names, and for each given name its place among them."""
    distinct, ids = np.unique(list(names), return_inverse=True)
    return tuple(distinct.tolist()), ids.astype(np.int64)


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    """Keys and packed pixels of a published zip, decoded once and then kept in the cache folder."""
    _, file = sources.data_file(path.name)
    stem = f"{path.stem}-v{_DECODED_VERSION}-{file.checksum.partition(':')[2][:16]}.npz"
    decoded = fetch.cache_dir() / "decoded" / stem
    try:
        with np.load(decoded, allow_pickle=False) as kept:
            return kept["keys"].tolist(), kept["bits"]
    except Exception:
        pass  # not there yet, or damaged: decode anew
    keys, bits = _decode(path)
    _keep(decoded, keys, bits)
    return keys, bits


def _decode(path: Path) -> tuple[list[str], np.ndarray]:
    """All images of a zip laid out as `ANY/ALPHABET/characterNN/IMAGE.png`.

    Raises:
        UserError: the zip, or the member that is named, is not what was published.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: _MEMBER.fullmatch(name) for name in archive.namelist()}
            _check_complete(path, members)
            images = {
                f"{match['character']}/{match['image']}": _decode_member(path, archive, name)
                for name, match in members.items()
                if match and match["image"]
            }
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        said = excerpt(str(error), longest=200)
        raise UserError(f"{path} is not a whole zip file ({said}). Remove it and fetch it again") from error
    return list(images), np.stack(list(images.values()))


def _check_complete(path: Path, members: dict[str, re.Match | None]) -> None:
    """Every character that the zip mentions has its 20 images, and every PNG belongs to a character."""
    for name, match in members.items():
        if name.endswith(".png") and match is None:
            raise UserError(
                f"{path}: {excerpt(name, longest=200)} is not at SET/ALPHABET/characterNN/IMAGE.png"
            )
    mentioned = {match["character"] for match in members.values() if match}
    if not mentioned:
        raise UserError(f"{path} has no image at SET/ALPHABET/characterNN/IMAGE.png; it is another zip file")
    counts = Counter(match["character"] for match in members.values() if match and match["image"])
    for character in sorted(mentioned):
        if counts[character] != NUM_DRAWERS:
            found = f"{excerpt(character, longest=200)} has {counts[character]}"
            raise UserError(f"{path}: {found} images instead of {NUM_DRAWERS}")


def _decode_member(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """uint8 `(1379,)`: the pixels packed row by row, 1 is white."""
    if (size := archive.getinfo(name).file_size) > MOST_IMAGE_BYTES:
        raise UserError(
            f"{path}: {excerpt(name, longest=200)} has {size:,} bytes; an image of Omniglot has some hundred"
        )
    try:
        image = Image.open(io.BytesIO(archive.read(name)))
        if image.size == (SIDE, SIDE):  # nothing larger is unpacked
            image.load()
    except Exception as error:  # what is damaged, encrypted or a bomb fails in many ways
        said = excerpt(str(error), longest=200)  # it may quote all that follows
        raise UserError(f"{path}: {excerpt(name, longest=200)} cannot be decoded ({said})") from error
    if image.size != (SIDE, SIDE) or image.mode != "1":
        width, height = image.size
        raise UserError(
            f"{path}: {excerpt(name, longest=200)} is {width}x{height} in mode {image.mode}, "
            f"not {SIDE}x{SIDE} black and white"
        )
    return np.packbits(np.asarray(image))


def _keep(decoded: Path, keys: list[str], bits: np.ndarray) -> None:
    """Write the decoded arrays whole or not at all; a cache that cannot be written is no error."""
    with suppress(CannotWrite):
        collect_temporary(decoded.parent)
        with atomic_file(decoded) as temporary, open(temporary, "wb") as file:
            np.savez(file, keys=np.array(keys), bits=bits)
