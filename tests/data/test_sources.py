"""The table of data sets is consistent, and names that it lacks are answered helpfully."""

import re

import pytest

from lgbench.data import sources
from lgbench.errors import UserError

pytestmark = pytest.mark.usefixtures("no_outside")


def test_file_names_are_unique_so_that_a_name_is_enough_to_find_a_file():
    names = [file.name for entry in sources.DATA_SETS for file in entry.files]
    assert len(names) == len(set(names)) == 7


@pytest.mark.parametrize("entry", sources.DATA_SETS, ids=lambda entry: entry.name)
def test_every_file_has_an_address_a_checksum_and_a_size(entry: sources.DataSet):
    assert (entry.files or entry.local) and entry.licence and entry.citation and entry.purpose
    for file in entry.files:
        assert file.url.startswith("https://") and file.url.endswith(f"/{file.name}")
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", file.checksum)
        assert file.size_bytes > 0


def test_unknown_data_set_names_a_near_one_and_all():
    with pytest.raises(
        UserError, match=r"no data set 'omniglott'\. Did you mean 'omniglot'\? Known: omniglot, "
    ):
        sources.data_set("omniglott")
    assert sources.data_set("omniglot").files[0].name == "images_background.zip"


def test_unknown_file_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'images\.zip'.*images_background\.zip"):
        sources.data_file("images.zip")
