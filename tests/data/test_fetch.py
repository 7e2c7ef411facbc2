"""Files are found in the promised order, downloaded whole and checked, or refused in one clear line."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lgbench.data import fetch, sources
from lgbench.errors import UserError

pytestmark = pytest.mark.usefixtures("no_outside")

NAME = "images_background_small1.zip"
CONTENT = b"what the publisher serves" * 1000


@pytest.fixture
def original(tmp_path: Path, publish: Callable[..., None]) -> Path:
    """The published file, kept where no look-up goes."""
    path = tmp_path / "publisher" / NAME
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    publish(path)
    return path


def place(folder: Path, content: bytes = CONTENT, sub: str = "omniglot") -> Path:
    path = folder / sub / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def cached_files() -> list[str]:
    return sorted(path.name for path in fetch.cache_dir().rglob("*") if path.is_file())


def test_lookup_order_is_data_dir_then_variable_then_cache(original, tmp_path, monkeypatch):
    assert fetch.find(NAME) is None
    in_cache = place(tmp_path / "cache")
    assert fetch.find(NAME) == in_cache
    in_variable = place(tmp_path / "variable")
    monkeypatch.setenv("LGBENCH_DATA", str(tmp_path / "variable"))
    assert fetch.find(NAME) == in_variable
    in_data_dir = place(tmp_path / "given")
    assert fetch.find(NAME, tmp_path / "given") == in_data_dir
    (tmp_path / "empty").mkdir()
    assert fetch.find(NAME, tmp_path / "empty") == in_variable


def test_file_may_lie_in_the_data_set_folder_or_directly_in_the_data_folder(original, tmp_path):
    direct = place(tmp_path / "given", sub=".")
    assert fetch.fetch(NAME, tmp_path / "given").samefile(direct)
    in_folder = place(tmp_path / "given")
    assert fetch.fetch(NAME, str(tmp_path / "given")) == in_folder


def test_a_named_folder_that_does_not_exist_is_an_error_that_says_who_named_it(
    original, tmp_path, monkeypatch
):
    with pytest.raises(UserError, match=r"--data-dir names .*nowhere, which is not a folder"):
        fetch.find(NAME, tmp_path / "nowhere")
    monkeypatch.setenv("LGBENCH_DATA", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"LGBENCH_DATA names .*gone, which is not a folder"):
        fetch.status()


def test_download_from_the_mirror_lands_in_the_cache_and_is_not_repeated(
    original, server, monkeypatch, capfd
):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url + "/")
    place(server.folder)
    path = fetch.fetch(NAME)
    assert path.read_bytes() == CONTENT
    assert path == fetch.cache_dir() / "omniglot" / NAME
    assert fetch.fetch(NAME) == path == fetch.find(NAME)
    assert server.asked == [f"/omniglot/{NAME}"]
    assert capfd.readouterr() == ("", ""), "off a terminal a download prints nothing"


def test_without_a_mirror_the_published_address_is_used(original, server, monkeypatch):
    monkeypatch.delenv("LGBENCH_MIRROR")
    entry, file = sources.data_file(NAME)
    address = f"{server.url}/python/{NAME}"
    local = sources.DataFile(name=NAME, url=address, checksum=file.checksum, size_bytes=file.size_bytes)
    monkeypatch.setattr(sources, "data_file", lambda name: (entry, local))
    place(server.folder, sub="python")
    assert fetch.fetch(NAME).read_bytes() == CONTENT
    assert server.asked == [f"/python/{NAME}"]


def test_a_file_on_this_machine_is_never_downloaded(original, server, tmp_path, monkeypatch):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url)
    place(tmp_path / "given")
    fetch.fetch(NAME, tmp_path / "given")
    assert server.asked == []


def test_wrong_content_from_the_server_is_refused_and_leaves_nothing(original, server, monkeypatch):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url)
    place(server.folder, b"<html>please log in</html>")
    with pytest.raises(
        fetch.DownloadError, match=r"does not serve the published file: SHA256.*expected.*but got"
    ):
        fetch.fetch(NAME)
    assert cached_files() == []


def test_a_download_that_breaks_off_leaves_nothing(original, server, monkeypatch):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url)
    server.break_off = True
    place(server.folder)
    with pytest.raises(fetch.DownloadError, match=f"cannot download {server.url}/omniglot/{NAME}: the conn"):
        fetch.fetch(NAME)
    assert cached_files() == []


def test_a_download_that_is_interrupted_leaves_nothing(original, server, monkeypatch):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url)
    place(server.folder)

    def interrupt(*_: object) -> None:
        assert len(list((fetch.cache_dir() / "omniglot").iterdir())) == 1, "there is a partial file to remove"
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch.Progress, "advance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(NAME)
    assert cached_files() == []


def test_missing_on_the_server_says_so_and_how_to_get_the_file(original, server, monkeypatch):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url)
    with pytest.raises(
        fetch.DownloadError, match=r"the server answered 404 Not Found.*--data-dir or LGBENCH_DATA"
    ):
        fetch.fetch(NAME)


def test_refused_connection_is_one_plain_line(original):
    with pytest.raises(fetch.DownloadError, match=r"no connection, .*refused") as caught:
        fetch.fetch(NAME)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_server_that_never_answers_is_given_up(original, monkeypatch):
    monkeypatch.setattr(fetch, "ANSWER_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("LGBENCH_MIRROR", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(fetch.DownloadError, match="no answer within a few seconds"):
            fetch.fetch(NAME)


def test_the_time_until_giving_up_is_bounded_below_ten_seconds():
    assert fetch.ANSWER_TIMEOUT_S < 10 and fetch.CONNECT_TIMEOUT_S < fetch.ANSWER_TIMEOUT_S


def test_a_mirror_must_be_an_address(original, monkeypatch):
    monkeypatch.setenv("LGBENCH_MIRROR", "/mnt/mirror")
    with pytest.raises(UserError, match=r"LGBENCH_MIRROR is '/mnt/mirror'.*--data-dir"):
        fetch.fetch(NAME)


def test_a_cache_that_cannot_be_made_is_a_download_error(original, server, tmp_path, monkeypatch):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url)
    place(server.folder)
    (tmp_path / "file").touch()
    monkeypatch.setenv("LGBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(fetch.DownloadError, match=r"cannot store .* LGBENCH_CACHE"):
        fetch.fetch(NAME)


@pytest.mark.parametrize(
    ("content", "what"),
    [(CONTENT[:100], "is truncated"), (CONTENT[::-1], "is not the published file")],
    ids=["truncated", "other-content"],
)
def test_a_damaged_file_of_the_user_is_an_error_with_both_checksums(original, tmp_path, content, what):
    path = place(tmp_path / "given", content)
    published = sources.data_file(NAME)[1].checksum.partition(":")[2]
    with pytest.raises(UserError, match=what) as caught:
        fetch.fetch(NAME, tmp_path / "given")
    assert not isinstance(caught.value, fetch.DownloadError), "nobody may fall back from a damaged file"
    assert str(path) in str(caught.value) and published in str(caught.value)
    assert path.read_bytes() == content, "a file of the user is never touched"


def test_a_damaged_file_in_the_cache_is_replaced_by_a_new_copy(original, server, tmp_path, monkeypatch):
    monkeypatch.setenv("LGBENCH_MIRROR", server.url)
    place(server.folder)
    path = place(tmp_path / "cache", CONTENT[:100])
    assert fetch.fetch(NAME) == path
    assert path.read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_without_network_says_both(original, tmp_path):
    place(tmp_path / "cache", CONTENT[:100])
    with pytest.raises(UserError, match=r"is truncated: .*a new copy cannot be had: cannot download"):
        fetch.fetch(NAME)


def test_status_tells_where_each_file_is(original, tmp_path):
    path = place(tmp_path / "given")
    rows = {row.file: row for row in fetch.status(tmp_path / "given")}
    assert len(rows) == 7
    assert rows[NAME] == fetch.FileStatus(
        data_set="omniglot-small",
        file=NAME,
        path=path,
        origin="--data-dir",
        size_bytes=len(CONTENT),
        licence="MIT",
    )
    absent = rows["images_background.zip"]
    assert absent.path is None and absent.origin == ""


def test_status_lists_files_that_are_read_in_place_of_published_ones(tmp_path):
    nothing = {row.file: row for row in fetch.status(tmp_path)}["train/*.txt test/*.txt"]
    assert nothing.data_set == "gutenberg" and nothing.path is None
    for name in ("gutenberg/train/a.txt", "gutenberg/train/b.txt", "gutenberg/test/c.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("once upon")
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "dev-v2.0.json.gz").write_bytes(b"12")
    rows = {row.file: row for row in fetch.status(tmp_path)}
    books = rows["train/*.txt (2 files)"]
    assert (books.data_set, books.path, books.size_bytes) == (
        "gutenberg",
        tmp_path / "gutenberg" / "train",
        18,
    )
    assert rows["c.txt"].path == tmp_path / "gutenberg" / "test" / "c.txt"
    assert rows["dev-v2.0.json.gz"].path == tmp_path / "squad" / "dev-v2.0.json.gz"
    assert "train/*.txt test/*.txt" not in rows


def test_verify_checks_what_is_there_and_skips_what_is_not(original, tmp_path):
    assert fetch.verify() == []
    path = place(tmp_path / "given")
    (check,) = fetch.verify(tmp_path / "given")
    assert (check.file, check.path, check.problem) == (NAME, path, "")
    path.write_bytes(CONTENT + b"!")
    (check,) = fetch.verify(tmp_path / "given")
    assert "is not the published file: sha256" in check.problem


def test_the_default_cache_is_the_systems(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LGBENCH_CACHE")
    assert fetch.cache_dir().name == "lgbench"


def test_the_data_layer_does_not_import_torch():
    code = "import sys, lgbench.data.fetch, lgbench.data.sources; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
