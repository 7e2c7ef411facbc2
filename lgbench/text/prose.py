"""Prose that needs no download: invented books, for a language model to learn from.

Each book has three towns and eight people with a trade, a home and a thing that they keep. Sentences come
from a small grammar. So there is something to learn at every range: spelling and phrases, order within a
sentence, who "she" is in a paragraph, and across a book what its people do and own. Our own; no real text.

The characters are the same everywhere, see `invent.Chance`.
"""

import functools
import re
from dataclasses import dataclass

from lgbench.text.invent import Chance, names, spelled

NUM_TRAIN, NUM_EVAL = 8, 3
BOOK_CHARS = 240_000
"""Length of each book, to within a paragraph."""

_NUM_PEOPLE = 8
_NUM_HOMES = 3

_WORDS = {
    "trade": (
        "baker|miller|weaver|carpenter|potter|smith|fisher|shepherd|gardener|teacher|doctor|printer|tailor|mason|"
        "clockmaker|ferryman|beekeeper|cook|painter|sailor|judge|singer|hunter|brewer"
    ),
    "thing": (
        "lantern|kettle|ladder|violin|letter|map|ring|coat|basket|clock|spoon|barrel|mirror|candle|rope|bell|book|"
        "chair|drum|key|cup|saddle|flute|umbrella|telescope|chest|blanket|bottle"
    ),
    "colour": "red|blue|green|yellow|black|white|grey|brown|golden|silver|purple|orange",
    "adjective": (
        "old|small|heavy|broken|clean|strange|quiet|empty|narrow|warm|cold|bright|dusty|crooked|simple|plain|"
        "expensive|forgotten|familiar|beautiful|wooden|round|wet|sharp"
    ),
    "mood": "glad|tired|afraid|proud|curious|hungry|patient|angry|calm|lonely|hopeful|ashamed|restless|sure",
    "place": (
        "kitchen|garden|market|mill|harbour|bridge|church|school|cellar|stable|workshop|library|orchard|tower|inn|"
        "courtyard|meadow|station|barn|quarry"
    ),
    "nature": "river|hill|forest|lake|valley|field|marsh|shore|road|well|pond|cliff|ravine|island",
    "animal": "dog|horse|cat|goose|fox|goat|crow|hen|owl|mule|pigeon|hare|donkey|heron",
    "food": "bread|soup|cheese|apples|fish|honey|beans|cake|plums|porridge|eggs|onions|milk|pears",
    "weather": "rain|snow|fog|wind|frost|thunder|sunshine|hail|mist",
    "weekday": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "season": "spring|summer|autumn|winter",
    "number": "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty",
    "time": (
        "in the morning|at noon|before sunset|after supper|on <weekday>|that night|a week later|in <season>|"
        "<number> days ago|at <number> minutes past <hour>|as soon as the <weather> was over"
    ),
    "hour": "one|two|three|four|five|six|seven|eight|nine|ten|eleven",
    "walk": "walked|ran|climbed|hurried|rode|wandered|went|limped|crept|drove",
    "find": "found|saw|noticed|discovered|remembered|lost|dropped|recognised",
    "make": "mended|built|sold|bought|hid|carried|cleaned|borrowed|painted|returned|measured|weighed|counted",
    "found": "found|seen|noticed|lost|dropped|recognised",
    "adverb": "slowly|carefully|quickly|silently|at once|gladly|without a word|twice|again|for the last time",
    "near": "near|behind|beside|above|below|beyond|opposite",
    "say": "said|asked|answered|whispered|cried|repeated|muttered",
    "object": (
        "a <adjective> <thing>|the <colour> <thing>|<number> <adjective> <thing>s|the <adjective> <animal>|"
        "some <food>"
    ),
    "where": (
        "to the <place>|along the <nature>|<near> the <place>|through the <nature>|"
        "from the <place> to the <nature>|to <home>|<near> the <adjective> <place>"
    ),
    "clause": (
        "<she> <walk> <where>|<she> <make> <object>|<she> <find> <object> <near> the <place>|"
        "the <animal> <walk> <where>|the <weather> came <adverb>|<she> was <mood>|<name2> <make> <object>"
    ),
    "because": "<link> <clause>",
    "link": "because|when|while|although|until|before",
    "sentence": (
        "<time>, <clause>.|<name> <walk> <where> <adverb>.|<she> <make> <object>, and <clause>.|"
        "<name>, the <trade1>, <make> <object> <time>.|<she> was <mood> <because>.|"
        "there stood <object> <near> the <place>, and nobody knew why.|"
        "<name> took <her> <thing1> and <walk> <where>.|"
        '"<say1>," <say> <name>.|"<say1>," <say> <name2>. "<say2>."|did <name2> know that <clause>?|'
        "<name2>, who was a <trade2>, <make> <object> for <name>.|the <adjective> <animal> <walk> <where>.|"
        "<she> had <number> <adjective> <thing>s and <object>.|<because>, <she> <walk> <where>.|"
        "in <home>, where <name> lived, the <weather> lasted <number> days.|nobody but <name> saw <object>!|"
        "<name2> showed <name> the <thing2> <time>.|<she> <adverb> <make> <object>; <clause>.|"
        "<name> and <name2> <walk> <where>, <number> miles in all.|<clause>, but <clause>."
    ),
    "say1": (
        "I have <found> <object>|you should ask the <trade2>|the <thing1> is not for sale|give me <object>|"
        "we must leave <time>|where is the <thing2>|my <animal> likes <food>|"
        "it was <name2> who <make> <object>|the <place> is too <adjective>|a <trade1> needs <object>"
    ),
    "say2": (
        "it is <near> the <place>|I am <mood>|nobody <make> <object> here|come back <time>|"
        "take <object> and go|the <weather> will not last|I live in <home>|there were <number> of them"
    ),
}
_GRAMMAR = {symbol: tuple(choices.split("|")) for symbol, choices in _WORDS.items()}
_SLOT = re.compile(r"<(\w+)>")


@dataclass(frozen=True, slots=True)
class _Person:
    name: str
    she: str
    her: str
    trade: str
    home: str
    thing: str


@functools.cache
def books() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Books to train on and books to evaluate on.

    They share no name, and no sentence but short ones such as "I am glad." within quotations.
    """
    chance = Chance(seed=1)
    fresh = names(chance)
    told: set[str] = set()
    casts = [[next(fresh) for _ in range(_NUM_HOMES + _NUM_PEOPLE)] for _ in range(NUM_TRAIN + NUM_EVAL)]
    train = tuple(_book(chance, cast, told=told, forbidden=set()) for cast in casts[:NUM_TRAIN])
    evaluation = tuple(_book(chance, cast, told=set(), forbidden=told) for cast in casts[NUM_TRAIN:])
    return train, evaluation


def _book(chance: Chance, its_names: list[str], told: set[str], forbidden: set[str]) -> str:
    """One book.

    Args:
        its_names: its homes, then its people.
        told: sentences are added to it.
        forbidden: sentences that are not used.
    """
    homes, people = its_names[:_NUM_HOMES], []
    trades = chance.sample(_GRAMMAR["trade"], _NUM_PEOPLE)
    for name, trade in zip(its_names[_NUM_HOMES:], trades, strict=True):
        she, her = chance.pick((("she", "her"), ("he", "his")))
        thing = f"{chance.pick(_GRAMMAR['colour'])} {chance.pick(_GRAMMAR['thing'])}"
        people.append(_Person(name, she, her, trade, chance.pick(homes), thing))
    paragraphs = [f"THE {people[0].trade.upper()} OF {homes[0].upper()}"]
    num_chars = num_chapters = 0
    while num_chars < BOOK_CHARS:
        if num_chars >= num_chapters * 6_000:
            num_chapters += 1
            paragraphs.append(f"CHAPTER {num_chapters}")
        hero, other = chance.sample(people, 2)
        drawn = [_sentence(chance, hero, other) for _ in range(chance.between(3, 7))]
        sentences = [sentence for sentence in drawn if sentence not in forbidden]
        told.update(sentences)
        paragraphs.append(" ".join(sentences))
        num_chars += len(paragraphs[-1]) + 2
    return "\n\n".join(paragraphs) + "\n"


def _sentence(chance: Chance, hero: _Person, other: _Person) -> str:
    fixed = {
        "name": hero.name,
        "she": hero.she,
        "her": hero.her,
        "trade1": hero.trade,
        "thing1": hero.thing,
        "home": hero.home,
        "name2": other.name,
        "trade2": other.trade,
        "thing2": other.thing,
    }
    text = chance.pick(_GRAMMAR["sentence"])
    while "<" in text:
        text = _SLOT.sub(lambda slot: fixed.get(slot[1]) or chance.pick(_GRAMMAR[slot[1]]), text)
    return spelled(text)
