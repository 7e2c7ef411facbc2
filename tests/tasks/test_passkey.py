"""Passkey as specified: exact samples, exact lengths, one needle, honest splits, and what is refused."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lgbench.tasks.passkey.items import Answers

from lgbench.errors import UserError
from lgbench.plan.cells import load_task
from lgbench.plan.params import PluginRequest
from lgbench.task import IGNORE
from lgbench.text.tokenizer import make_tokenizer

WORDS = "The old man went home. He slept well. A dog barked all night long at the moon. Nobody woke. "
VARIANTS = ("natural", "repeated")
_loaded = {}


def load(**params):
    """One prepared task for each set of parameters that is not the default one."""
    params = {name: value for name, value in params.items() if value not in ("natural", "bytes")}
    key = tuple(sorted(params.items()))
    if key not in _loaded:
        _loaded[key] = load_task(PluginRequest("passkey", {"data": "procedural", **params}))
        _loaded[key].prepare(torch.device("cpu"))
    return _loaded[key]


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """Passkey in a text that fits on a line."""
    folder = tmp_path_factory.mktemp("text")
    for side in ("train", "test"):
        (folder / side).mkdir()
        (folder / side / "one.txt").write_text(f"Here we {side}. " + WORDS)
    return str(folder)


def texts(task, batch):
    """Context, queries and targets of the first item of a batch, as text."""
    tokens = (batch.context["tokens"][0], batch.queries["tokens"][0], batch.targets[0])
    return [task.decode(part[part >= 0].tolist()) for part in tokens]


def whole(items, length):
    everyone = slice(0, items.num_items)
    queries, targets = items.queries(everyone, length, 5)
    return items.context(everyone, 0, items.num_tokens(length), length)["tokens"], queries["tokens"], targets


def test_a_sample_in_natural_text_reads_as_published(little):
    task = load(data=little)
    needles, (queries, targets) = task.tables(["04217"])
    text_at, needle_at = task.place(task.train_corpus, task.train_corpus.starts[2:3], torch.tensor([23]))
    context = task.context(task.train_corpus, needles, text_at, needle_at, 0, 230)
    assert task.decode(context[0]) == (
        "There is an important pass key hidden inside a lot of irrelevant text. Find it and memorize it:\n"
        "The old man went home. "
        "The pass key is 04217. Remember it. 04217 is the pass key. "
        "He slept well. A dog barked all night long at the mo"
    )
    assert task.decode(queries[0]) == "\nAnswer: 0421" and task.decode(targets[0]) == "04217"


def test_a_sample_among_repeated_sentences_reads_as_published():
    task = load(variant="repeated")
    needles, (queries, targets) = task.tables(["00042"])
    text_at, needle_at = task.place(task.train_corpus, torch.tensor([0]), torch.tensor([179]))
    context = task.context(task.train_corpus, needles, text_at, needle_at, 0, 302)
    assert task.decode(context[0]) == (
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it.\n\n"
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
        "The passkey is 00042. Remember it. 00042 is the passkey.\n"
        "The grass is green. The sky is blue. The sun is yellow. Here w"
    )
    assert task.decode(queries[0]) == "\nWhat is the pass key? The passkey is 0004"
    assert task.decode(targets[0]) == "00042"


def test_as_released_the_question_comes_on_top_of_the_length():
    """So the released prompts of 2,000 tokens are longer than an L_base of 2,000."""
    for protocol, more in (("clean", 0), ("as_released", len(load().question))):
        task = load(protocol=protocol)
        batch = task.sample(2, 400, 5, torch.Generator().manual_seed(0))
        items = task.eval_set(5, 0)
        assert batch.context["tokens"].shape == (2, 400 + more)
        assert task.context_tokens(400) == items.num_tokens(400) == 400 + more
        assert task.decode(batch.context["tokens"][0].tolist()).count(". Remember it. ") == 1


def test_the_paper_preset_is_the_published_fine_tuning():
    clean, released = (load(protocol=p).recipe("paper", "causal") for p in ("clean", "as_released"))
    assert clean.fixed_length and clean.train_length == 2000 and clean.weight_decay == 0.1
    assert clean.decay_all and clean.untied and clean.adam_epsilon == 1e-8
    assert (clean.train_steps, released.train_steps) == (5 * 6144 // 32, 10 * 6144 // 32)


def test_as_released_the_answer_ends_with_an_end_of_text_and_is_padded_to_ten_tokens():
    task = load(protocol="as_released")
    needles, (queries, targets) = task.tables(["619"])
    assert task.decode(needles.tokens[0]) == "The pass key is 619. Remember it. 619 is the pass key. "
    assert targets.tolist() == [[*b"619", 256] + [IGNORE] * 6]
    assert queries.tolist() == [[*b"\nAnswer: 619"] + [256] * 6]


def test_codes_of_the_two_sides_are_disjoint_and_of_five_digits_unless_as_released():
    clean, released = load().codes, load(protocol="as_released").codes
    assert not set(clean["train"]) & set(clean["eval"])
    assert len(clean["train"]) + len(clean["eval"]) == 100_000 and len(clean["eval"]) > 6_000
    assert all(len(code) == 5 and code.isdigit() for side in clean.values() for code in side)
    assert [len(side) for side in released.values()] == [10_000, 10_000]
    assert 500 < len(set(released["train"]) & set(released["eval"])) < 1_500
    assert not any(code.startswith("0") for side in released.values() for code in side if code != "0")
    assert 0.85 < sum(len(code) == 5 for code in released["train"]) / 10_000 < 0.95


@pytest.mark.parametrize(
    ("variant", "tokenizer"), [("natural", "bytes"), ("natural", "bpe"), ("repeated", "bytes")]
)
@settings(max_examples=10, deadline=None)
@given(extra=st.integers(0, 900), seed=st.integers(0, 99))
def test_a_training_sample_has_its_length_its_needle_once_and_its_code_as_the_answer(
    variant, tokenizer, extra, seed
):
    task = load(variant=variant, tokenizer=tokenizer)
    length = task.min_length + extra
    batch = task.sample(3, length, 5, torch.Generator().manual_seed(seed))
    assert batch.context["tokens"].shape == (3, length)
    for k in range(3):
        context = task.decode(batch.context["tokens"][k])
        code = task.decode(batch.targets[k])
        needle = {"natural": f"The pass key is {code}. Remember it. {code} is the pass key. "}.get(
            variant, f"The passkey is {code}. Remember it. {code} is the passkey.\n"
        )
        assert context.count(needle) == 1 and code in task.codes["train"]
        before, after = context.split(needle)
        assert before[-1].isspace()
        assert "pass key is " not in before + after and "passkey is " not in before + after
        asked = batch.queries["tokens"][k]
        assert task.decode(asked).endswith(code[:-1])
        assert torch.equal(asked[-(batch.targets.shape[1] - 1) :], batch.targets[k, :-1])


@pytest.mark.parametrize(
    "params", [{}, {"variant": "repeated"}, {"tokenizer": "bpe"}, {"protocol": "as_released"}]
)
@pytest.mark.parametrize("length", [1500, 4099])
def test_evaluation_items_have_one_needle_where_the_facts_say_near_its_depth(params, length):
    task = load(**params)
    items = task.eval_set(20, 0)
    contexts, _, targets = whole(items, length)
    facts = items.facts(length)
    assert facts["depth"] == [0.0, 0.25, 0.5, 0.75, 1.0] * 4
    room = items.num_tokens(length) - len(task.question)
    for k, (begin, end) in enumerate(items.spans(length)):
        assert begin == facts["needle"][k]
        code = task.decode(targets[k][targets[k] >= 0])
        assert code == items.codes[k] and code in task.codes["eval"]
        needle = task.decode(contexts[k, begin:end])
        assert needle.count(code) == 2 and task.decode(contexts[k]).count(needle) == 1
        slack = 90 / room if task.params.variant == "repeated" else 0.001
        share = (begin - len(task.question)) / (room - (end - begin))
        assert abs(share - facts["depth"][k]) <= 0.1 + slack
    assert len({tuple(row.tolist()) for row in contexts}) == 20


@pytest.mark.parametrize("params", [{}, {"variant": "repeated"}, {"protocol": "as_released"}])
def test_needles_are_spread_over_both_sides_of_their_depths(params):
    task = load(**params)
    items = task.eval_set(100, 0)
    room = items.num_tokens(4099) - len(task.question)
    share = [(begin - len(task.question)) / (room - (end - begin)) for begin, end in items.spans(4099)]
    for depth in (0.25, 0.5, 0.75):
        off = [a - b for a, b in zip(share, items.facts(4099)["depth"], strict=True) if b == depth]
        assert min(off) < -0.05 and max(off) > 0.05 and abs(sum(off) / len(off)) < 0.05
    ends = [a for a, b in zip(share, items.facts(4099)["depth"], strict=True) if b in (0, 1)]
    assert sum(0.02 < a < 0.98 for a in ends) > len(ends) / 2


def test_any_piece_of_a_context_is_that_piece_of_the_whole():
    for params in ({}, {"variant": "repeated"}, {"protocol": "as_released"}):
        items = load(**params).eval_set(5, 3)
        contexts = whole(items, 1500)[0]
        edges = [0, 40, 96, 97, 300, 301, 1499, items.num_tokens(1500)]
        pieces = [items.context(slice(0, 5), a, b, 1500)["tokens"] for a, b in pairwise(edges)]
        assert torch.equal(torch.cat(pieces, dim=1), contexts)
        assert torch.equal(items.context(slice(3, 4), 250, 600, 1500)["tokens"], contexts[3:4, 250:600])


def test_the_middle_of_a_million_tokens_comes_alone_and_goes_round_the_corpus():
    items = load().eval_set(100, 0)
    piece = items.context(slice(0, 100), 900_000, 904_096, 1 << 20)["tokens"]
    assert piece.shape == (100, 4096)
    assert len(load().eval_corpus.tokens) < 900_000, "the text is shorter than the context"


def test_texts_and_codes_of_an_item_do_not_depend_on_how_many_items_there_are():
    task = load()
    few, many = task.eval_set(5, 0), task.eval_set(20, 0)
    assert torch.equal(whole(few, 700)[0], whole(many, 700)[0][:5]) and few.codes == many.codes[:5]
    assert few.fingerprint != many.fingerprint


def test_samples_and_evaluation_items_agree_on_shapes_and_prompt():
    for params in ({}, {"variant": "repeated"}, {"protocol": "as_released"}, {"tokenizer": "bpe"}):
        task = load(**params)
        batch = task.sample(2, 500, 5, torch.Generator().manual_seed(0))
        length = 1000 - len(task.question) if "protocol" in params else 500  # where sentences start
        contexts, queries, targets = whole(task.eval_set(5, 0), length)
        num_prompt = queries.shape[1] - targets.shape[1] + 1
        assert (
            queries.shape[1] == batch.queries["tokens"].shape[1]
            and targets.shape[1] == batch.targets.shape[1]
        )
        assert torch.equal(queries[0, :num_prompt], batch.queries["tokens"][1, :num_prompt])
        assert contexts.dtype == batch.context["tokens"].dtype == torch.int64
        first = len(task.question)
        assert torch.equal(contexts[0, :first], batch.context["tokens"][1, :first])


def test_in_training_the_needle_is_anywhere():
    task = load()
    tokens = task.sample(400, 1000, 5, torch.Generator().manual_seed(0)).context["tokens"]
    places = torch.tensor([task.decode(row).index("The pass key is") for row in tokens]).float()
    assert places.min() < 130 and places.max() > 910
    assert places.mean() == pytest.approx((97 + 941) / 2, abs=4 * 844 / 12**0.5 / 400**0.5)


def test_only_the_whole_code_is_right_in_the_clean_protocol():
    items = load().eval_set(5, 0)
    answers = items.queries(slice(0, 5), 700, 5)[1].clone()
    answers[1, 4] = ord("x")
    assert items.grade(slice(0, 5), 700, answers)["accuracy"].tolist() == [1, 0, 1, 1, 1]
    assert items.grade(slice(1, 3), 700, answers[1:3])["accuracy"].tolist() == [0, 1]


def test_as_released_the_code_must_be_a_word_of_the_text_before_the_end():
    items = load(protocol="as_released").eval_set(5, 0)
    code = items.codes[0].encode()
    said = [code + b"\x00", b" " + code, code + b".", b"", b"1 " + code]
    rows = [[*text, 256, *b"0123456789"][:10] for text in said]
    rows[0] = [*code, 256, *b"999999"][:10]
    rows[3] = [256, *code, 256, 256, 256, 256][:10]
    items.codes = [items.codes[0]] * 5
    assert items.grade(slice(0, 5), 1000, torch.tensor(rows))["accuracy"].tolist() == [1, 1, 0, 0, 1]


def test_chance_is_the_best_guess_of_a_held_out_code():
    task = load()
    assert task.references(task.eval_set(5, 0), 5, task.metric)["chance"] == 1 / len(task.codes["eval"])


@pytest.mark.parametrize("preset", ["smoke", "small", "paper"])
def test_every_preset_has_room_for_the_needle_and_items_for_all_depths(preset):
    for variant in VARIANTS:
        task = load(variant=variant)
        recipe = task.recipe(preset, "causal")
        task.check(recipe)
        assert recipe.eval_lengths[0] >= task.min_length and recipe.eval_items % len(task.params.depths) == 0


def test_what_does_not_fit_is_refused_with_what_would():
    task = load()
    recipe = task.recipe("smoke", "causal")
    with pytest.raises(UserError, match="--eval-items 12: passkey needs a multiple of its 5 depths, 0, "):
        task.check(replace(recipe, eval_items=12))
    with pytest.raises(UserError, match="12: passkey needs a multiple"):
        task.eval_set(12, 0)
    with pytest.raises(
        UserError,
        match=r"64 tokens is too short for passkey: question and needle alone take 155 .* 155 or more",
    ):
        task.check(replace(recipe, eval_lengths=(64, 512)))
    with pytest.raises(UserError, match="154 tokens is too short"):
        task.sample(2, 154, 5, torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="depths are fractions of the context, from 0 to 1"):
        load(depths=(0.0, 2.0))


def test_as_released_a_length_that_works_is_named_where_no_sentence_starts_near_a_depth():
    task = load(protocol="as_released")
    items = task.eval_set(100, 0)
    for length in (64, 300):
        with pytest.raises(
            UserError, match=rf"near depth .* of {length} tokens \(procedural, bytes\); .* works is --eval"
        ) as refused:
            items.facts(length)
        works = int(re.search(r"--eval-lengths (\d+)\. ", str(refused.value))[1])
        assert works % 1000 == 0 and len(items.facts(works)["needle"]) == 100
        for less in range(1000, works, 1000):
            with pytest.raises(UserError, match="no sentence starts near"):
                items.facts(less)


def test_as_released_the_published_grid_is_refused_with_the_text_and_the_tokenizer_that_have_it():
    task = load(protocol="as_released")
    with pytest.raises(
        UserError, match=r"grid, from 1,000 tokens on, runs with data=wikitext,tokenizer=bpe$"
    ):
        task.check(replace(task.recipe("paper", "causal"), eval_lengths=(300, 1000)))


def test_as_released_is_refused_with_repeated_sentences_which_another_paper_has():
    with pytest.raises(
        UserError, match=r"from another paper, Stuffed Mamba\. Use variant=natural with it, or"
    ):
        load(protocol="as_released", variant="repeated")
    assert load(variant="repeated").params.protocol == "clean"


@pytest.mark.parametrize("params", [{}, {"variant": "repeated"}, {"protocol": "as_released"}])
def test_a_tokenizer_that_cannot_write_codes_is_refused_with_what_can(no_digits, params):
    with pytest.raises(
        UserError,
        match=r"words cannot write codes: '\d+' comes back as '\[UNK\]'\. .* give --tokenizer bytes",
    ):
        load(tokenizer=no_digits, **params)


def test_codes_that_are_the_same_tokens_after_the_prompt_are_refused(no_digits):
    tokenizer = make_tokenizer(no_digits, ())
    with pytest.raises(UserError, match=r"codes after the prompt apart: '\d+' and '\d+' are the same tokens"):
        Answers(tokenizer, "Answer: ", {"train": ["12345"], "eval": ["54321"]}, "clean")


def test_text_that_a_tokenizer_loses_is_named_beside_the_results(letters_and_digits, little):
    task = load(data=little, tokenizer=letters_and_digits("."))
    assert task.notice == (
        "Tokenizer letters does not give back 2 of 25 words that were tried, for instance 'There is an "
        "important pass key hidden inside a lot of irrelevant text. Find it and memorize it:', 'Answer:': "
        "models read, and are scored on, what it leaves of the text."
    )
    batch = task.sample(1, 500, 5, torch.Generator().manual_seed(0))
    assert texts(task, batch)[2] in task.codes["train"], "codes are there all the same"
    assert load(data=little).notice == load(data=little, tokenizer="bpe").notice == ""


def test_as_released_a_text_without_boundaries_is_refused_with_another_remedy(tmp_path):
    (tmp_path / "train.txt").write_text("one word after another " * 8000)
    with pytest.raises(UserError, match=r"no sentence of at least .* tokens. Take another text"):
        load(data=str(tmp_path / "train.txt"), protocol="as_released")


def test_a_text_that_says_a_needle_of_its_own_is_refused(tmp_path):
    (tmp_path / "book.txt").write_text(WORDS * 20 + "The pass key is 12345. " + WORDS * 20)
    with pytest.raises(UserError, match="itself says 'The pass key is '"):
        load(data=str(tmp_path / "book.txt"))
