"""Which data sets lgbench knows, where they are published, and the checksums of the real files."""

import difflib
from dataclasses import dataclass

from lgbench.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One published file."""

    name: str
    """Unique among all data sets, since files are asked for by name."""

    url: str

    checksum: str
    """`algorithm:hex`, as pooch reads it."""

    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Files that are fetched together."""

    name: str

    folder: str
    """Sub-folder of a data folder, of the cache and of a mirror; data sets of one origin may share it."""

    files: tuple[DataFile, ...]
    """What can be downloaded."""

    local: tuple[str, ...] = ()
    """Patterns of files in the folder that are read in place of those, where a user has put them there."""

    licence: str

    citation: str

    purpose: str
    """What it is for, in a sentence that `lgbench data list` prints."""


_OMNIGLOT_URL = "https://github.com/brendenlake/omniglot/raw/master/python"
_OMNIGLOT_CITATION = (
    "Lake, Salakhutdinov and Tenenbaum (2015), Human-level concept learning through probabilistic program "
    "induction, Science 350(6266), 1332-1338"
)


def _omniglot_file(name: str, sha256: str, size_bytes: int) -> DataFile:
    return DataFile(
        name=name, url=f"{_OMNIGLOT_URL}/{name}", checksum=f"sha256:{sha256}", size_bytes=size_bytes
    )


_SQUAD_URL = "https://rajpurkar.github.io/SQuAD-explorer/dataset"


def _squad_file(name: str, sha256: str, size_bytes: int) -> DataFile:
    return DataFile(name=name, url=f"{_SQUAD_URL}/{name}", checksum=f"sha256:{sha256}", size_bytes=size_bytes)


_WIKITEXT_URL = "https://huggingface.co/datasets/ggml-org/ci/resolve/927b3642933080f1b0e811e2f916e14c292992f9"
"""A public copy of the archive, whose first address (s3.amazonaws.com/research.metamind.io) is gone."""


DATA_SETS = (
    DataSet(
        name="omniglot",
        folder="omniglot",
        files=(
            _omniglot_file(
                "images_background.zip",
                "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
                9_464_212,
            ),
            _omniglot_file(
                "images_evaluation.zip",
                "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
                6_462_886,
            ),
        ),
        licence="MIT",
        citation=_OMNIGLOT_CITATION,
        purpose="image reconstruction: 964 characters to train on, 659 others to evaluate",
    ),
    DataSet(
        name="omniglot-small",
        folder="omniglot",
        files=(
            _omniglot_file(
                "images_background_small1.zip",
                "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
                1_319_022,
            ),
            _omniglot_file(
                "images_background_small2.zip",
                "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
                1_580_917,
            ),
        ),
        licence="MIT",
        citation=_OMNIGLOT_CITATION,
        purpose="image reconstruction in little: 242 characters of 8 alphabets, some of them held out",
    ),
    DataSet(
        name="squad",
        folder="squad",
        files=(
            _squad_file(
                "train-v2.0.json",
                "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002",
                42_123_633,
            ),
            _squad_file(
                "dev-v2.0.json",
                "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
                4_370_528,
            ),
        ),
        licence="CC BY-SA 4.0",
        citation=(
            "Rajpurkar, Jia and Liang (2018), Know What You Don't Know: Unanswerable Questions for SQuAD, "
            "ACL 2018, arXiv:1806.03822"
        ),
        purpose="document retrieval and question answering: 20,239 paragraphs of Wikipedia with questions",
        local=("train-v2.0.json.gz", "dev-v2.0.json.gz"),
    ),
    DataSet(
        name="wikitext",
        folder="wikitext-2-raw",
        files=(
            DataFile(
                name="wikitext-2-raw-v1.zip",
                url=f"{_WIKITEXT_URL}/wikitext-2-raw-v1.zip",
                checksum="sha256:ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11",
                size_bytes=4_721_645,
            ),
        ),
        licence="CC BY-SA 3.0",
        citation=(
            "Merity, Xiong, Bradbury and Socher (2017), Pointer Sentinel Mixture Models, ICLR 2017, "
            "arXiv:1609.07843"
        ),
        purpose="text around a passkey, perplexity: 720 articles of Wikipedia",
        local=("wiki.*.raw", "wiki.*.tokens", "train.txt", "validation.txt", "test.txt"),
    ),
    DataSet(
        name="gutenberg",
        folder="gutenberg",
        files=(),
        licence="the books' own",
        citation="laid out as by Rae et al. (2020), Compressive Transformers, ICLR 2020, arXiv:1911.05507",
        purpose="text around a passkey, perplexity: books, one a file, put into train/ and test/ by the user",
        local=("train/*.txt", "test/*.txt"),
    ),
)


def data_set(name: str) -> DataSet:
    """The data set of this name.

    Raises:
        UserError: there is none; the message lists those that exist.
    """
    known = {entry.name: entry for entry in DATA_SETS}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"no data set {name!r}.{hint} Known: {', '.join(known)}")


def data_file(name: str) -> tuple[DataSet, DataFile]:
    """The file of this name and the data set that it belongs to.

    Raises:
        UserError: no data set has such a file.
    """
    for entry in DATA_SETS:
        for file in entry.files:
            if file.name == name:
                return entry, file
    known = ", ".join(file.name for entry in DATA_SETS for file in entry.files)
    raise UserError(f"no data set has a file {name!r}. Known: {known}")
