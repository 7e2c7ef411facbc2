"""Numbers that a tokenizer cannot write are refused, and what else it loses is counted and named."""

import pytest

from lgbench.errors import UserError
from lgbench.text.spelling import NUM_WORDS, check_distinct, check_numbers, describe_losses
from lgbench.text.tokenizer import ByteTokenizer

pytestmark = pytest.mark.usefixtures("no_outside")


class Apart(ByteTokenizer):
    """Gives characters back with blanks between them, and does not know some."""

    name = "apart"

    def __init__(self, unknown=""):
        self.unknown = unknown

    def encode(self, text):
        return super().encode("".join(c for c in text if c not in self.unknown))

    def decode(self, ids):
        return " ".join(super().decode(ids))


def test_digits_may_come_back_with_blanks_unless_answers_are_words():
    check_numbers(Apart(), [" 007", "42"], "ids")
    with pytest.raises(UserError, match="apart cannot write codes: '42' comes back as '4 2'"):
        check_numbers(Apart(), ["7", "42"], "codes", in_one=True)
    check_numbers(ByteTokenizer(), [" 007", "42"], "codes", in_one=True)


def test_the_first_number_that_loses_a_digit_is_named():
    with pytest.raises(
        UserError, match=r"cannot write ids: '49' comes back as '4'\. .* has tokens for digits$"
    ):
        check_numbers(Apart("9"), ["48", "49", "59"], "ids")


def test_texts_with_the_same_tokens_and_a_text_without_any_are_refused():
    check_distinct(ByteTokenizer(), {"a": [1], "b": [1, 2]}, "markers")
    with pytest.raises(UserError, match="cannot tell markers apart: 'a' and 'c' are the same tokens"):
        check_distinct(ByteTokenizer(), {"a": [1], "b": [2], "c": [1]}, "markers")
    with pytest.raises(UserError, match=r"apart: '\|>' has no tokens"):
        check_distinct(ByteTokenizer(), {"a": [1], "|>": []}, "markers")


def test_lost_words_are_counted_each_once_and_three_are_named():
    assert (
        describe_losses(ByteTokenizer(), ["50 % of 1914\u20131918\n", "\u00e9t\u00e9"], ["<|Query|>"]) == ""
    )
    found = describe_losses(Apart("%\u2013|"), ["50 % of % 1914\u20131918\n", "a|b"], ["<|Query|>"])
    assert found.startswith(
        "Tokenizer apart does not give back 4 of 6 words that were tried, for instance '<|Query|>', '%', "
        "'1914\u20131918': models read"
    )


def test_words_are_tried_from_the_middle_of_texts_and_from_all_of_many():
    book = "plain " * 1000 + "50% " * 400 + "plain " * 1000
    assert "1 of 2 words" in describe_losses(Apart("%"), [book])
    many = ["plain"] * 5000 + ["50%"] * 5000
    assert "1 of 2 words" in describe_losses(Apart("%"), many)
    assert f"{NUM_WORDS:,} of {NUM_WORDS:,} words" in describe_losses(
        Apart("%"), [" ".join(f"{text * 100 + k}%" for k in range(100)) for text in range(200)]
    )
