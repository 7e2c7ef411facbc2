"""Documents as tokens: what lies where in the pool, how pieces are joined, what is drawn."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lgbench.tasks._documents.corpus import NUM_IDS, build_corpus, cut_paragraphs, join_pieces
from lgbench.tasks._documents.draws import (
    CONTINUED_WORDS,
    SCATTERED_WORDS,
    SPAN_WORDS,
    ask,
    choose,
    context_pieces,
    draw_continuations,
    draw_gold,
    draw_keywords,
    draw_released_shelf,
    draw_shelf,
    draw_windows,
)
from lgbench.tasks._documents.squad import Question, Squad
from lgbench.tasks._documents.squad_score import exact_match, f1, normalise

from lgbench.text.tokenizer import ByteTokenizer

pytestmark = pytest.mark.usefixtures("no_outside")

PARAGRAPHS = (
    "Rollo led the Norse  raiders. They settled\nin Normandy.",
    "The Rhine rises in Graubünden and ends in Rotterdam.",
    "Oxygen boils at 90 kelvin.",
    "Ctenophora swim by beating cilia, unlike jellyfish.",
    "Harvard was founded in 1636.",
)
SQUAD = Squad(
    paragraphs=PARAGRAPHS,
    articles=(0, 1, 2, 3, 4),
    questions=(
        Question(id="a", text="Who led the raiders?", answers=("Rollo", "the Norse"), paragraph=0),
        Question(id="b", text="Where does it end?", answers=("Rotterdam",), paragraph=1),
        Question(id="c", text="When was it founded?", answers=("1636", "in 1636"), paragraph=4),
    ),
    train=(0, 1, 2),
    eval=(3, 4),
    source="hand-made",
    fingerprint="f" * 16,
    notice="",
    broken=(),
)
EXTRA = ("It was a dark and stormy night; the rain fell in torrents.",)
TOKENIZER = ByteTokenizer()
CORPUS = build_corpus(SQUAD, EXTRA, TOKENIZER)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def text_of(span):
    return TOKENIZER.decode(CORPUS.pool[span[0] : span[1]].tolist())


def test_every_text_lies_in_the_pool_with_single_blanks_and_one_in_front():
    texts = [text_of(span) for span in CORPUS.documents.tolist()]
    assert texts[0] == " Rollo led the Norse raiders. They settled in Normandy."
    assert texts[1:] == [" " + text for text in (*PARAGRAPHS[1:], *EXTRA)]
    assert [text_of(span) for span in CORPUS.questions.tolist()] == [" " + q.text for q in SQUAD.questions]
    assert [text_of(span) for span in CORPUS.answers.tolist()] == [" Rollo", " Rotterdam", " 1636"]
    assert [text_of(span) for span in CORPUS.markers.tolist()] == [" <|Query|>", " <|Document", "|>"]


def test_ids_have_three_digits_unless_as_released():
    assert [text_of(CORPUS.ids[k]) for k in (0, 7, 42, 999)] == [" 000", " 007", " 042", " 999"]
    released = build_corpus(SQUAD, (), TOKENIZER, pad_ids=False)
    start, stop = released.ids[7].tolist()
    assert TOKENIZER.decode(released.pool[start:stop].tolist()) == " 7"


def test_the_words_around_an_answer_are_whole_and_in_its_document():
    assert [text_of(span) for span in CORPUS.evidence.tolist()] == [" Rollo", " Rotterdam.", " 1636."]
    for question, span in zip(CORPUS.asked, CORPUS.evidence, strict=True):
        begin, end = CORPUS.documents[question]
        assert begin <= span[0] < span[1] <= end


def test_words_cover_the_documents_and_nothing_else():
    words = [text_of(pair) for pair in zip(CORPUS.words[:-1], CORPUS.words[1:], strict=True)]
    assert words == [" " + word for text in (*PARAGRAPHS, *EXTRA) for word in text.split()]


def test_questions_and_documents_keep_to_their_side():
    assert CORPUS.train.documents.tolist() == [0, 1, 2, 5] and CORPUS.eval.documents.tolist() == [3, 4]
    assert CORPUS.train.questions.tolist() == [0, 1] and CORPUS.eval.questions.tolist() == [2]
    assert CORPUS.train.extra.tolist() == [False, False, False, True]


def test_extra_paragraphs_weigh_as_much_together_as_those_of_squad():
    weights = CORPUS.train.weights
    assert weights[CORPUS.train.extra].sum() == weights[~CORPUS.train.extra].sum() == 3


def test_books_are_cut_into_distinct_paragraphs_of_whole_words():
    words = [f"w{k}" for k in range(250)]
    cut = cut_paragraphs([" ".join(words), "too short", "\n".join(words[:120])])
    assert cut == [" ".join(words[:120]), " ".join(words[120:240])]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), min_size=3, max_size=3), min_size=1
    ),
    slack=st.integers(0, 4),
    cut=st.tuples(st.integers(0, 24), st.integers(0, 24)),
)
def test_joined_pieces_equal_slices_put_together_in_python(rows, slack, cut):
    pool = torch.arange(100, 150)
    starts, lengths = torch.tensor(rows).unbind(-1)
    width = max(1, int(lengths.sum(dim=1).max()) + slack)
    tokens, there = join_pieces(pool, starts, lengths, width)
    for row, got, mask in zip(rows, tokens.tolist(), there.tolist(), strict=True):
        plain = [token for start, length in row for token in pool[start : start + length].tolist()]
        assert got == [0] * (width - len(plain)) + plain
        assert mask == [False] * (width - len(plain)) + [True] * len(plain)
    first, last = sorted(cut)
    piece = join_pieces(pool, starts, lengths, width, first, last)
    assert torch.equal(piece[0], tokens[:, first:last]) and torch.equal(piece[1], there[:, first:last])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), num_documents=st.integers(1, 4), asks=st.booleans())
def test_noise_is_distinct_and_never_golden_and_ids_are_distinct(seed, num_documents, asks):
    generator, asks = seeded(seed), torch.full((20,), asks)
    gold, question = draw_gold(CORPUS.train, CORPUS, CORPUS.train.questions, asks, generator)
    gold_id = torch.randint(NUM_IDS, (20,), generator=generator)
    shelf = draw_shelf(CORPUS.train, gold, gold_id, asks, num_documents, generator)
    assert shelf.documents.shape == shelf.ids.shape == (20, num_documents)
    assert torch.equal(torch.where(asks, CORPUS.asked[question], gold), gold)
    for documents, ids, place, golden, name in zip(*_lists(shelf, gold, gold_id), strict=True):
        assert set(documents) <= set(CORPUS.train.documents.tolist())
        assert len(set(documents)) == len(set(ids)) == num_documents
        assert documents[place] == golden and ids[place] == name and set(ids) <= set(range(NUM_IDS))


def _lists(shelf, gold, gold_id):
    return [t.tolist() for t in (shelf.documents, shelf.ids, shelf.place, gold, gold_id)]


def test_noise_beside_a_question_is_from_squad_while_there_is_any():
    gold, asks = torch.zeros(200, dtype=torch.long), torch.arange(200) % 2 == 1
    shelf = draw_shelf(CORPUS.train, gold, gold, asks, 3, seeded(0))
    from_books = (shelf.documents == 5).any(dim=1)
    assert from_books[~asks].any() and not from_books[asks].any()
    whole = draw_shelf(CORPUS.train, gold, gold, asks, 4, seeded(0))
    assert (whole.documents.sort(dim=1).values == torch.tensor([0, 1, 2, 5])).all()


def test_the_golden_place_and_the_golden_id_are_uniform():
    """The published code always named the last document; chi-square with 3 degrees of freedom."""
    gold = torch.ones(4000, dtype=torch.long)
    gold_id = torch.randint(NUM_IDS, (4000,), generator=seeded(1))
    shelf = draw_shelf(CORPUS.train, gold, gold_id, gold > 5, 4, seeded(0))
    counts = shelf.place.bincount(minlength=4).double()
    assert ((counts - 1000) ** 2 / 1000).sum() < 16.3, counts
    right = shelf.ids[:, -1] == gold_id
    assert right.float().mean() == pytest.approx(0.25, abs=0.03), "the last document is golden by chance only"


def test_released_noise_may_be_golden_and_released_places_recur():
    gold = torch.ones(300, dtype=torch.long)
    shelf = draw_released_shelf(CORPUS.train, gold, gold, gold > 5, 4, seeded(0))
    again = draw_released_shelf(CORPUS.train, gold, gold, gold > 5, 4, seeded(1))
    assert torch.equal(shelf.place, again.place) and set(shelf.place.tolist()) == {0, 1, 2, 3}
    assert ((shelf.documents == 1).sum(dim=1) > 1).any()


@pytest.mark.parametrize("num_documents", [2, 4, 12, 20, 300])
def test_released_places_tell_nothing_about_items_of_even_and_odd_numbers(num_documents):
    gold = torch.zeros(1200, dtype=torch.long)
    place = draw_released_shelf(CORPUS.train, gold, gold, gold > 5, num_documents, seeded(0)).place
    for one_kind in (place[0::2], place[1::2]):
        assert (one_kind % 2 == 0).float().mean() == pytest.approx(0.5, abs=0.05)
        assert (one_kind < num_documents / 2).float().mean() == pytest.approx(0.5, abs=0.05)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), tokens=st.integers(12, 70), budget=st.integers(30, 200))
def test_windows_start_at_words_keep_to_the_budget_and_hold_the_evidence(seed, tokens, budget):
    generator, asks = seeded(seed), torch.arange(16) % 2 == 1
    gold, question = draw_gold(CORPUS.train, CORPUS, CORPUS.train.questions, asks, generator)
    shelf = draw_shelf(CORPUS.train, gold, gold, asks, 3, generator)
    golden = torch.arange(3) == shelf.place[:, None]
    evidence = CORPUS.evidence[question].masked_fill(~asks[:, None], 0)
    starts, lengths = draw_windows(CORPUS, shelf.documents, golden, evidence, tokens, budget, generator)
    begin, end = CORPUS.documents[shelf.documents].unbind(-1)
    assert (lengths > 0).all() and (starts >= begin).all() and (starts + lengths <= end).all()
    assert torch.isin(starts, CORPUS.words).all()
    held = (evidence[:, 1] - evidence[:, 0])[:, None].expand_as(lengths)
    assert (lengths <= torch.where(golden, held.clamp(min=tokens), tokens)).all()
    assert (lengths.sum(dim=1) <= max(budget, 3) + held[:, 0]).all()
    mine = golden & asks[:, None]
    first, last = (t[:, None].expand_as(lengths)[mine] for t in evidence.unbind(-1))
    assert (starts[mine] <= first).all() and (last <= starts[mine] + lengths[mine]).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), fewest=st.sampled_from([1, 6]))
def test_keywords_are_whole_words_of_the_document(seed, fewest):
    documents = torch.arange(len(PARAGRAPHS)).repeat(8)
    begin, end = CORPUS.documents[documents].unbind(-1)
    queries = draw_keywords(CORPUS, begin, end - begin, 600, fewest, seeded(seed))
    for document, starts, lengths in zip(documents, queries.starts, queries.lengths, strict=True):
        words = (*PARAGRAPHS, *EXTRA)[document].split()
        pieces = [text_of((a, a + n)) for a, n in zip(starts, lengths, strict=True) if n]
        if len(pieces) == 1:
            said = pieces[0].split()
            assert pieces[0] in " " + " ".join(words), pieces
            assert min(len(words), max(fewest, SPAN_WORDS[0])) <= len(said) <= SPAN_WORDS[1]
        else:
            assert len(pieces) <= SCATTERED_WORDS[1] and {piece.strip() for piece in pieces} <= set(words)
            assert len({int(a) for a, n in zip(starts, lengths, strict=True) if n}) == len(pieces), "distinct"


def test_a_verbatim_query_has_a_word_that_is_neither_frequent_nor_in_many_documents():
    """A template of 16 words in 100 documents, each with one name of its own, after 200 frequent words."""
    frequent = tuple(f"very{k} " * 300 for k in range(200))
    template = " ".join(f"form{k}" for k in range(8)), " ".join(f"shape{k}" for k in range(8))
    named = tuple(f"{template[0]} Name{k} {template[1]}" for k in range(100))
    squad = replace(SQUAD, paragraphs=(*frequent, *named), articles=(0,) * 300, questions=(),
                    train=tuple(range(250)), eval=tuple(range(250, 300)))  # fmt: skip
    corpus = build_corpus(squad, (), TOKENIZER)
    begin, end = corpus.documents[torch.arange(200, 300).repeat(4)].unbind(-1)
    queries = draw_keywords(corpus, begin, end - begin, 600, 6, seeded(0))
    assert (queries.lengths[:, 1:] == 0).all(), "a document with a single telling word has spans only"
    said = [
        TOKENIZER.decode(corpus.pool[a : a + n].tolist())
        for a, n in zip(queries.starts[:, 0], queries.lengths[:, 0], strict=True)
    ]
    assert all(f" Name{k % 100}" in text and 6 <= len(text.split()) <= 8 for k, text in enumerate(said))
    assert len({text.split().index(f"Name{k % 100}") for k, text in enumerate(said)}) == 8, "at any place"


def test_a_query_is_never_longer_than_its_limit():
    begin, end = CORPUS.documents[torch.arange(6).repeat(50)].unbind(-1)
    queries = draw_keywords(CORPUS, begin, end - begin, 18, 1, seeded(0))
    assert queries.lengths.sum(dim=1).max() <= 18 and (queries.lengths.sum(dim=1) > 0).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    fewest=st.sampled_from([1, 6]),
    tokens=st.integers(1, 70),
    limits=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_query_and_its_continuation_are_neighbouring_whole_words_of_a_part(seed, fewest, tokens, limits):
    generator, documents = seeded(seed), torch.arange(len(PARAGRAPHS)).repeat(8)[:, None]
    nothing = torch.zeros(len(documents), 2, dtype=torch.long)
    golden = torch.ones_like(documents, dtype=torch.bool)
    parts = draw_windows(CORPUS, documents, golden, nothing, tokens, 10_000, generator)
    starts, lengths = (part.squeeze(1) for part in parts)
    queries, spans = draw_continuations(CORPUS, starts, lengths, *limits, fewest, generator)
    assert (queries.lengths[:, 1:] == 0).all() and spans.shape == (len(documents), 2)
    for start, length, begin, size, (place, end) in zip(
        *(t.tolist() for t in (starts, lengths, queries.starts[:, 0], queries.lengths[:, 0], spans)),
        strict=True,
    ):
        words = CORPUS.words[(CORPUS.words >= start) & (CORPUS.words <= start + length)].tolist()
        assert start <= begin < place == begin + size <= end <= start + length
        asked, said = text_of((begin, place)).split(), text_of((place, end)).split()
        assert size <= limits[0] and len(asked) <= SPAN_WORDS[1] and len(said) <= CONTINUED_WORDS
        assert bool(said) == (len(words) > 2), "there is an answer wherever there is a second whole word"
        if len(words) > 2:
            assert place in words and end in words
            assert end - place <= limits[1] or len(said) == 1
            assert begin in words or len(asked) == 1, "only a single long word is cut"


def test_continuations_are_three_words_after_three_to_eight_and_differ_from_draw_to_draw():
    begin, end = CORPUS.documents[torch.zeros(300, dtype=torch.long)].unbind(-1)
    queries, spans = draw_continuations(CORPUS, begin, end - begin, 600, 600, 1, seeded(0))
    asked = [text_of((a, b)) for a, b in zip(queries.starts[:, 0], spans[:, 0], strict=True)]
    said = [text_of(span) for span in spans.tolist()]
    whole = " ".join(PARAGRAPHS[0].split())
    assert {len(text.split()) for text in asked} == {3, 4, 5, 6}, "of nine words"
    assert {len(text.split()) for text in said} == {3}
    assert all(f"{one}{other}".strip() in whole for one, other in zip(asked, said, strict=True))
    assert (" They settled in", " Normandy.") not in zip(asked, said, strict=True)
    assert (" Rollo led the", " Norse raiders. They") in zip(asked, said, strict=True)
    assert len(set(said)) == 4


def test_a_context_reads_as_published():
    start, stop = CORPUS.documents[torch.tensor([[2, 4]])].unbind(-1)
    pieces = context_pieces(
        CORPUS, ask(CORPUS, torch.tensor([2])), torch.tensor([[7, 417]]), start, stop - start
    )
    tokens, there = join_pieces(CORPUS.pool, *pieces, width=int(pieces[1].sum()))
    assert TOKENIZER.decode(tokens[0][there[0]].tolist()) == (
        " <|Query|> When was it founded? <|Document 007|> Oxygen boils at 90 kelvin."
        " <|Query|> When was it founded? <|Document 417|> Harvard was founded in 1636."
    )


def test_choosing_takes_whole_queries():
    questions = ask(CORPUS, torch.tensor([0, 1])), ask(CORPUS, torch.tensor([2, 2]))
    chosen = choose(torch.tensor([True, False]), *questions)
    assert chosen.starts[:, 0].tolist() == CORPUS.questions[[0, 2], 0].tolist()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Norman, dynasty!", "norman dynasty"),
        ("a an the", ""),
        ("theatre and Anne", "theatre and anne"),
        ("U.S.A.", "usa"),
        ("the-end", "theend"),
        ("", ""),
    ],
)
def test_normalising_drops_case_punctuation_articles_and_blanks(text, plain):
    assert normalise(text) == plain


@pytest.mark.parametrize(
    ("said", "golds", "score", "exact"),
    [
        ("The Norman dynasty.", ("a Norman dynasty",), 1.0, 1.0),
        ("Norman kings", ("the Norman dynasty",), 0.5, 0.0),
        ("in the 10th century", ("10th century",), 0.8, 0.0),
        ("the", ("",), 1.0, 1.0),
        ("", ("Rollo",), 0.0, 0.0),
        ("", ("the", "Rollo"), 0.0, 0.0),
        ("an", ("the", "!"), 1.0, 1.0),
        ("a", ("Rollo",), 0.0, 0.0),
        ("Bill", ("Rollo", "bill", "Bill Clinton"), 1.0, 1.0),
        ("to to be", ("to be to be",), 6 / 7, 0.0),
        ("to to to", ("to be",), 0.4, 0.0),
        ("paris", ("london",), 0.0, 0.0),
    ],
)
def test_scores_are_those_worked_out_by_hand(said, golds, score, exact):
    assert f1(said, golds) == pytest.approx(score) and exact_match(said, golds) == exact
