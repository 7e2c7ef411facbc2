"""Images and split come from the best source at hand, and what is wrong with a zip is said by name."""

import io
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lgbench.tasks.omniglot import dataset as omniglot
from PIL import Image

from lgbench.data import fetch
from lgbench.errors import UserError
from lgbench.store.process import mark

pytestmark = pytest.mark.usefixtures("no_outside")

REAL_DATA = os.environ.get("LGBENCH_DATA")
BACKGROUND, EVALUATION = omniglot.FULL_FILES
SMALL1, SMALL2 = omniglot.SMALL_FILES


def png(seed: int = 0, side: int = 105, mode: str = "1") -> bytes:
    """A white image with a black rectangle, whose size depends on the seed."""
    pixels = np.full((side, side), 255, dtype=np.uint8)
    pixels[10 : 11 + seed % 50, 20 : 21 + seed // 50 % 50] = 0
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, format="PNG")
    return out.getvalue()


def write_zip(path: Path, alphabets: dict[str, int], changed: dict[str, bytes | None] | None = None) -> Path:
    """A zip laid out like the published ones.

    Args:
        path: where to; the top folder is named after it.
        alphabets: number of characters of each alphabet; 20 images each.
        changed: member to other content, or to None to leave it out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    members: dict[str, bytes | None] = {}
    for alphabet, num_characters in alphabets.items():
        for character in range(1, num_characters + 1):
            folder = f"{alphabet}/character{character:02d}/"
            members[f"{path.stem}/{folder}"] = b""
            for drawer in range(1, 21):
                key = f"{folder}0001_{drawer:02d}.png"
                members[f"{path.stem}/{key}"] = png(zlib.crc32(key.encode()))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | (changed or {})).items():
            if content is not None:
                archive.writestr(name, content)
    return path


@pytest.fixture
def full(tmp_path: Path, publish: Callable[..., None]) -> Path:
    """A data folder with both full files in miniature, published as such."""
    folder = tmp_path / "full"
    publish(
        write_zip(folder / BACKGROUND, {"Braille": 2, "Tifinagh": 1}),
        write_zip(folder / EVALUATION, {"Atlantean": 1, "Keble": 2}),
    )
    return folder


@pytest.fixture
def small(tmp_path: Path, publish: Callable[..., None]) -> Path:
    """A data folder with both small files in miniature, published as such; Greek is in both."""
    folder = tmp_path / "small"
    publish(
        write_zip(folder / SMALL1, {"Balinese": 1, "Early_Aramaic": 1, "Greek": 2}),
        write_zip(folder / SMALL2, {"Greek": 2, "Sanskrit": 2, "Tagalog": 1}),
    )
    return folder


def damaged(tmp_path: Path, publish: Callable[..., None], changed: dict[str, bytes | None]) -> Path:
    """A data folder with one small file in which members are changed, published all the same."""
    folder = tmp_path / "damaged"
    publish(write_zip(folder / SMALL1, {"Balinese": 1, "Greek": 1}, changed))
    return folder


def check_consistent(data: omniglot.OmniglotData) -> None:
    """What holds for every source."""
    num_images = len(data.images)
    assert data.images.shape == (num_images, 105, 105) and data.images.dtype == np.uint8
    assert data.alphabet_ids.shape == data.character_ids.shape == (num_images,)
    assert (np.bincount(data.character_ids) == 20).all()
    assert len(np.bincount(data.character_ids)) == len(data.characters)
    alphabet_of_each = [data.alphabets[at] for at in data.alphabet_ids]
    assert [data.characters[at].split("/")[0] for at in data.character_ids] == alphabet_of_each
    assert np.array_equal(np.sort(np.concatenate([data.train, data.eval])), np.arange(num_images))
    assert len(data.train) and len(data.eval)
    for ids in (data.alphabet_ids, data.character_ids):
        assert not set(ids[data.train]) & set(ids[data.eval]), "the split is by alphabet and by character"
    assert np.array_equal(np.unique(data.images), [0, 255])
    assert (data.images == 255).mean() > 0.5, "the background is white"
    assert len(data.fingerprint) == 16


def held_out(data: omniglot.OmniglotData) -> set[str]:
    return {data.alphabets[at] for at in data.alphabet_ids[data.eval]}


def test_full_set_is_split_as_published(full):
    data = omniglot.load(data_dir=full)
    check_consistent(data)
    assert (data.source, data.notice) == ("omniglot", "")
    assert data.alphabets == ("Atlantean", "Braille", "Keble", "Tifinagh")
    assert len(data.train) == len(data.eval) == 60
    assert held_out(data) == {"Atlantean", "Keble"}


def test_pixels_are_those_of_the_png(full):
    data = omniglot.load(data_dir=full)
    at = data.characters.index("Keble/character02")
    with zipfile.ZipFile(full / EVALUATION) as archive:
        content = archive.read("images_evaluation/Keble/character02/0001_01.png")
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    assert np.array_equal(data.images[data.character_ids == at][0], expected)


def test_small_sets_are_united_without_repeats_and_hold_out_sanskrit_and_tagalog(small):
    data = omniglot.load(data_dir=small)
    check_consistent(data)
    assert (data.source, data.notice) == ("omniglot-small", "")
    assert len(data.characters) == 1 + 1 + 2 + 2 + 1
    assert held_out(data) == {"Sanskrit", "Tagalog"}


def test_one_small_set_is_enough(small):
    (small / SMALL2).unlink()
    data = omniglot.load("omniglot", small)
    check_consistent(data)
    assert data.alphabets == ("Balinese", "Early_Aramaic", "Greek")
    assert held_out(data) == {"Balinese", "Early_Aramaic"}


def test_other_alphabets_can_be_held_out_and_change_the_fingerprint(small):
    data = omniglot.load(data_dir=small, held_out=("Greek",))
    check_consistent(data)
    assert held_out(data) == {"Greek"}
    assert data.fingerprint != omniglot.load(data_dir=small).fingerprint


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Klingon",), "there is no Klingon. The alphabets of omniglot-small are Balinese, "),
        ((), "some must be held out"),
        (("Balinese", "Early_Aramaic", "Greek", "Sanskrit", "Tagalog"), "some must remain"),
    ],
    ids=["unknown", "none", "all"],
)
def test_a_split_that_cannot_be_made_is_refused(small, names, message):
    with pytest.raises(UserError, match=message):
        omniglot.load(data_dir=small, held_out=names)


def test_full_set_takes_no_other_split(full):
    with pytest.raises(UserError, match="held_out=Braille is not for full Omniglot"):
        omniglot.load(data_dir=full, held_out=("Braille",))


def test_full_set_is_preferred_to_the_small_ones(tmp_path, full, publish):
    everything = [full / BACKGROUND, full / EVALUATION, write_zip(full / SMALL1, {"Balinese": 1, "Greek": 1})]
    publish(*everything)
    assert omniglot.load(data_dir=full).source == "omniglot"
    (full / EVALUATION).unlink()
    data = omniglot.load(data_dir=full, held_out=("Greek",))
    assert data.source == "omniglot-small"


@pytest.mark.parametrize("data", ["auto", "omniglot"])
def test_full_set_is_downloaded_when_nothing_is_here(full, server, monkeypatch, data):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url)
    full.rename(server.folder / "omniglot")
    loaded = omniglot.load(data)
    check_consistent(loaded)
    assert loaded.source == "omniglot"
    assert server.asked == [f"/omniglot/{BACKGROUND}", f"/omniglot/{EVALUATION}"]


def test_auto_without_data_and_network_draws_glyphs_and_says_so():
    data = omniglot.load("auto")
    check_consistent(data)
    assert data.source == "procedural" and len(data.alphabets) == 8
    assert data.notice.startswith("No Omniglot on this machine (no connection). Procedural glyphs")
    assert "Procedural glyphs are used instead; their numbers are not comparable" in data.notice


def test_auto_falls_back_when_the_server_goes_down_between_the_two_files(full, server, monkeypatch):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url)
    full.rename(server.folder / "omniglot")
    (server.folder / "omniglot" / EVALUATION).unlink()
    data = omniglot.load("auto")
    assert data.source == "procedural" and "404" in data.notice


def test_omniglot_insisted_on_without_data_and_network_says_how_to_get_it():
    with pytest.raises(
        UserError, match=r"cannot download .*Put images_background\.zip into FOLDER/omniglot/"
    ):
        omniglot.load("omniglot")


def test_procedural_asked_for_says_so_and_is_always_the_same():
    first, second = omniglot.load("procedural"), omniglot.load("procedural", held_out=("Procedural_03",))
    check_consistent(first)
    assert first.source == "procedural" and first.notice.startswith("Procedural glyphs as asked for")
    assert held_out(first) == {"Procedural_07", "Procedural_08"} and held_out(second) == {"Procedural_03"}
    assert np.array_equal(first.images, second.images)
    assert first.fingerprint == "f80ce108e376ed6e" != second.fingerprint


def test_another_source_is_refused():
    with pytest.raises(UserError, match="data must be auto, omniglot or procedural, got 'mnist'"):
        omniglot.load("mnist")  # type: ignore[arg-type]


@pytest.mark.parametrize("data", ["auto", "omniglot"])
def test_a_truncated_zip_of_the_user_is_an_error_and_no_reason_to_fall_back(full, data):
    content = (full / EVALUATION).read_bytes()
    (full / EVALUATION).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"images_evaluation\.zip is truncated: sha256 "):
        omniglot.load(data, full)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"images_background_small1/Greek/character01/0001_07.png": None},
            "Greek/character01 has 19 images instead of 20",
        ),
        (
            {"images_background_small1/Greek/character02/": b""},
            "Greek/character02 has 0 images instead of 20",
        ),
        (
            {"images_background_small1/Greek/character01/0001_07.png": png(side=104)},
            r"Greek/character01/0001_07\.png is 104x104 in mode 1, not 105x105 black and white",
        ),
        (
            {"images_background_small1/Greek/character01/0001_07.png": png(mode="L")},
            r"Greek/character01/0001_07\.png is 105x105 in mode L",
        ),
        (
            {"images_background_small1/Greek/character01/0001_07.png": b"no image"},
            r"Greek/character01/0001_07\.png cannot be decoded",
        ),
        (
            {"images_background_small1/Greek/character01/0001_07.png": png()[:-60]},
            r"Greek/character01/0001_07\.png cannot be decoded",
        ),
        ({"images_background_small1/0001_07.png": png()}, r"small1/0001_07\.png is not at SET/ALPHABET/"),
    ],
    ids=["missing", "empty-character", "size", "grey", "no-png", "truncated-png", "layout"],
)
def test_a_wrong_member_is_named(tmp_path, publish, changed, message):
    folder = damaged(tmp_path, publish, changed)
    with pytest.raises(UserError, match=rf"images_background_small1\.zip: .*{message}"):
        omniglot.load(data_dir=folder)
    assert not list(fetch.cache_dir().rglob("*.npz")), "nothing of a damaged file is kept"


def test_a_member_whose_bytes_rotted_is_named(tmp_path, publish):
    folder = damaged(tmp_path, publish, {})
    path = folder / SMALL1
    member = "images_background_small1/Greek/character01/0001_07.png"
    content = bytearray(path.read_bytes())
    content[content.index(member.encode()) + len(member) + 30] ^= 0xFF
    path.write_bytes(content)
    publish(path)
    with pytest.raises(UserError, match=r"0001_07\.png cannot be decoded \(Bad CRC-32"):
        omniglot.load(data_dir=folder)


def test_what_is_said_of_a_damaged_member_does_not_quote_all_that_follows(tmp_path, publish):
    folder = damaged(tmp_path, publish, {})
    path = folder / SMALL1
    member = b"images_background_small1/Greek/character01/0001_07.png"
    content = bytearray(path.read_bytes())
    at = content.index(member) - 4  # the length of the name in the member's own header
    content[at : at + 2] = (0x3000).to_bytes(2, "little")
    path.write_bytes(content)
    publish(path)
    with pytest.raises(
        UserError, match=r"0001_07\.png cannot be decoded \(File name in directory"
    ) as refused:
        omniglot.load(data_dir=folder)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"not a zip"), "is not a whole zip file"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "it is another zip file"),
    ],
    ids=["no-zip", "empty-zip"],
)
def test_another_file_under_the_name_is_an_error(tmp_path, publish, make, message):
    path = tmp_path / SMALL1
    make(path)
    publish(path)
    with pytest.raises(UserError, match=message):
        omniglot.load(data_dir=tmp_path)


def test_decoded_arrays_are_kept_and_give_the_same_data(small, monkeypatch):
    machine = mark().partition("-")[0]
    left = fetch.cache_dir() / "decoded" / f".images.npz.{machine}-{2**22 + 1}-1.abc"  # by a killed process
    left.parent.mkdir(parents=True)
    left.touch()
    first = omniglot.load(data_dir=small)
    assert len(list(fetch.cache_dir().rglob("*.npz"))) == 2
    assert not list(fetch.cache_dir().rglob(".*"))
    monkeypatch.setattr(omniglot, "_decode", lambda path: pytest.fail("decoded a second time"))
    second = omniglot.load(data_dir=small)
    assert np.array_equal(first.images, second.images)
    assert (first.fingerprint, first.characters) == (second.fingerprint, second.characters)


def test_kept_arrays_are_not_used_for_another_zip_of_the_same_name(small, publish):
    first = omniglot.load(data_dir=small)
    publish(write_zip(small / SMALL1, {"Balinese": 3, "Greek": 2}), small / SMALL2)
    second = omniglot.load(data_dir=small)
    assert len(second.characters) == 3 + 2 + 2 + 1
    assert first.fingerprint != second.fingerprint


def test_damaged_kept_arrays_are_made_anew(small):
    first = omniglot.load(data_dir=small)
    for kept in fetch.cache_dir().rglob("*.npz"):
        kept.write_bytes(kept.read_bytes()[:500])
    second = omniglot.load(data_dir=small)
    assert first.fingerprint == second.fingerprint
    for kept in fetch.cache_dir().rglob("*.npz"):
        with np.load(kept) as arrays:
            assert arrays["bits"].shape[1] == 1379


def test_a_cache_that_cannot_be_written_is_no_error(small, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LGBENCH_CACHE", str(tmp_path / "file"))
    check_consistent(omniglot.load(data_dir=small))


def test_a_full_disk_leaves_no_half_written_arrays(small, monkeypatch):
    def full_disk(out: io.BufferedWriter, **_: np.ndarray) -> None:
        out.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(omniglot.np, "savez", full_disk)
    check_consistent(omniglot.load(data_dir=small))
    assert list((fetch.cache_dir() / "decoded").iterdir()) == []


@pytest.mark.skipif(not REAL_DATA, reason="real Omniglot: set LGBENCH_DATA to a folder that has it")
def test_real_omniglot_is_complete_and_split_without_overlap():
    if not any(fetch.find(name, REAL_DATA) for name in (BACKGROUND, SMALL1, SMALL2)):
        pytest.skip(f"no Omniglot in {REAL_DATA}")
    assert all(check.problem == "" for check in fetch.verify(REAL_DATA))
    data = omniglot.load("omniglot", REAL_DATA)
    check_consistent(data)
    sizes = {"omniglot-small": (8, 242, 4_840, 3_660), "omniglot": (50, 1_623, 32_460, 19_280)}
    found = (len(data.alphabets), len(data.characters), len(data.images), len(data.train))
    assert found == sizes[data.source]
    assert (data.images[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 255).mean() > 0.99, "corners are white"
    assert 0.07 < (data.images == 0).mean() < 0.09


@pytest.mark.parametrize(
    ("size", "complaint"), [((9_000, 9_000), "9000x9000"), ((105, 105), "an image of Omniglot has some")]
)
def test_an_image_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path, size, complaint):
    png = io.BytesIO()
    Image.new("1", size).save(png, "png")
    content = png.getvalue() if size[0] > 105 else png.getvalue() + b"\0" * (1 << 20)
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for image in range(20):
            archive.writestr(f"set/Alphabet/character01/{image:02}.png", content)
    with pytest.raises(UserError, match=complaint):
        omniglot._decode(path)
