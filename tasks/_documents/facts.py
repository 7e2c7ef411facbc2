"""Facts that need no download: short articles about invented things, with questions and answers.

    Veldorik is a town in Brenoum. It was founded in 1412. The mayor of the town is Ottar Plinde. ...
    When was Veldorik founded?  1412

A country of invented things is an article. Each thing has a paragraph of 45 to 95 words with six to eight
facts, each fact a sentence, a question and a short answer that stands in the paragraph word for word. No name
occurs in two paragraphs, but that of the country. Our own; no real facts.

The characters are the same everywhere, see `invent.Chance`.
"""

import functools
from collections.abc import Iterator

from lgbench.text.invent import Chance, names, spelled

NUM_TRAIN, NUM_EVAL = 160, 40
"""Articles, those to train on first."""

NUM_PARAGRAPHS = 20
"""In each article."""

Paragraph = tuple[str, tuple[tuple[str, str], ...]]
"""Text, and its questions with their answers."""

_CHOICES = {
    "colour": "red|blue|green|yellow|black|white|grey|brown|golden|silver|purple|orange",
    "material": "oak|granite|copper|slate|bronze|marble|brick|cedar|iron|limestone|bamboo|clay|glass|straw",
    "ware": "salt|paper|rope|honey|candles|glass|cheese|wool|tiles|silver|tea|barrels|soap|nails|carpets",
    "food": "plums|lentils|smoked fish|rye bread|onions|almonds|goat cheese|pears|chestnuts|mushrooms|oats",
    "animal": "heron|fox|goat|owl|hare|salmon|otter|raven|badger|swan|lynx|mule|crane|tortoise|beetle|pike",
    "work": "miller|carpenter|teacher|shepherd|doctor|judge|printer|gardener|sailor|weaver|painter",
    "month": "January|February|March|April|May|June|July|August|September|October|November|December",
    "cause": "a fire|a flood|an earthquake|a long strike|a war|a hard winter|a storm|a theft|a landslide",
    "land": "marsh|steep cliffs|vineyards|pine forest|dry meadows|sand dunes|peat bogs|chalk hills",
    "cure": "fever|toothache|sore eyes|a bad cough|burns|headaches|snake bites|sleeplessness|rheumatism",
    "theme": "two sisters|a lost letter|an honest thief|a stolen bell|a long voyage|a blind king",
    "prize": "a silver cup|a wreath|a pair of boots|a barrel of cider|a white horse|a painted shield",
    "power": "steam|wind|a water wheel|two horses|a heavy spring|falling weights|compressed air|a pedal",
    "sound": "a low hum|a sharp whistle|a steady ticking|a dull roar|three clear notes|a faint rattle",
}
_VALUES = {kind: choices.split("|") for kind, choices in _CHOICES.items()}
_UNITS = {"number": "", "distance": " kilometres", "span": " metres", "height": " centimetres"}

_KINDS = {
    "town": (
        "year; it was founded in {}, long before the first road; when was {name} founded?",
        "number; about {} people live there today; how many people live in {name}?",
        "person; the mayor of the town is {}, who was elected twice; who is the mayor of {name}?",
        "ware; merchants know it for its {}, sold in every port; what is {name} known for?",
        "material; most of the houses in the town are built of {}; what are the houses of {name} built of?",
        "cause; half of the old town was lost to {}; what destroyed half of {name}?",
        "month; its market is held every year in {}; in which month is the market of {name} held?",
        "animal; its coat of arms shows a {} on a shield; which animal is on the coat of arms of {name}?",
    ),
    "river": (
        "distance; from its source to the sea it is {} long; how long is the river {name}?",
        "place; it rises near the village of {} in the mountains; near which village does {name} rise?",
        "land; its lower course runs through {}; through what does the lower course of {name} run?",
        "animal; fishermen believe that a giant {} lives in it; which animal is said to live in {name}?",
        "person; the first map of the river was drawn by {}; who drew the first map of {name}?",
        "year; the last great flood came in {} and lasted days; when was the last great flood of {name}?",
        "month; boats cannot pass it in {}, when the water is low; in which month can boats not pass {name}?",
        "colour; clay makes its water look {} after rain; what colour is the water of {name} after rain?",
    ),
    "ship": (
        "year; it was launched in {} in front of a large crowd; when was the ship {name} launched?",
        "person; its first captain was {}, a quiet and careful man; who was the first captain of {name}?",
        "ware; on its last voyage it carried {} and nothing else; what did {name} carry on its last voyage?",
        "place; it sank within sight of the island of {}; near which island did {name} sink?",
        "number; there were {} bunks below deck; how many bunks did {name} have?",
        "colour; its sails were {}, so that it was seen from afar; what colour were the sails of {name}?",
        "material; the hull of the ship was made of {}; what was the hull of {name} made of?",
        "animal; a carved {} decorated its bow; which animal decorated the bow of {name}?",
    ),
    "plant": (
        "colour; in good years it bears {} flowers; what colour are the flowers of {name}?",
        "land; it grows best on {} near the coast; where does {name} grow best?",
        "cure; country people use its roots against {}; what are the roots of {name} used against?",
        "person; the botanist {} described it first; who first described {name}?",
        "month; it can be picked in {} only; in which month can {name} be picked?",
        "animal; the only creature that eats its leaves is the {}; which animal eats the leaves of {name}?",
        "food; its seeds taste like {}; what do the seeds of {name} taste like?",
        "height; old plants reach a height of {}; how high does {name} grow?",
    ),
    "machine": (
        "person; it was invented by {} after many failures; who invented the machine {name}?",
        "year; the first one was shown to the public in {}; when was {name} first shown to the public?",
        "power; it is driven by {}, day and night; what drives the machine {name}?",
        "ware; it was meant for making {}, but few were bought; what was {name} meant for making?",
        "sound; a working one can be recognised by {}; by what sound is {name} recognised?",
        "number; it has {} moving parts, each with a number; how many moving parts does {name} have?",
        "material; its frame is cast in one piece from {}; what is the frame of {name} made from?",
        "work; every owner needs a {} to look after it; who must look after {name}?",
    ),
    "festival": (
        "month; it is celebrated on the first days of {}; in which month is {name} celebrated?",
        "cause; people remember {} that their ancestors survived; what does the festival {name} remember?",
        "food; children go from house to house and are given {}; what are children given at {name}?",
        "colour; everyone wears something {}, at least a ribbon; which colour is worn at {name}?",
        "prize; the winner of the race receives {}; what does the winner of the race at {name} receive?",
        "animal; the dancers hide behind the mask of a {}; which mask do the dancers at {name} wear?",
        "person; its most famous song was written by {}; who wrote the most famous song of {name}?",
        "number; no more than {} guests are admitted; how many guests are admitted to {name}?",
    ),
    "novel": (
        "person; it was written by {} within one winter; who wrote the novel {name}?",
        "year; the first edition appeared in {} without the name of a printer; when did {name} first appear?",
        "theme; it tells the story of {} in simple words; what is the story of {name} about?",
        "place; most of the action takes place in the city of {}; in which city does {name} take place?",
        "work; the one who tells it is a {} who cannot sleep; by whom is {name} told?",
        "number; it has {} chapters, some of a single page; how many chapters does {name} have?",
        "colour; collectors look for copies in {} leather; what colour of {name} do collectors look for?",
        "month; it begins on a cold evening in {}; in which month does {name} begin?",
    ),
    "bridge": (
        "span; the bridge is {} long and very narrow; how long is the bridge {name}?",
        "year; work on it began in {} and took a generation; in which year did work on {name} begin?",
        "person; the plans were made by {}, who never saw it finished; who made the plans of {name}?",
        "material; it rests on pillars of {}; what are the pillars of {name} made of?",
        "place; on its far side begins the road to {}; to which place does the road beyond {name} lead?",
        "cause; it was closed for years because of {}; why was {name} closed for years?",
        "work; the toll was collected by a {} in a small hut; who collected the toll at {name}?",
        "number; {} lamps light it at night; how many lamps light {name}?",
    ),
}


@functools.cache
def articles() -> tuple[tuple[Paragraph, ...], ...]:
    """All articles; the first `NUM_TRAIN` are to train on, the others share no name with them."""
    chance = Chance(seed=2)
    fresh = names(chance)
    return tuple(_article(chance, fresh) for _ in range(NUM_TRAIN + NUM_EVAL))


def _article(chance: Chance, fresh: Iterator[str]) -> tuple[Paragraph, ...]:
    country = next(fresh)
    return tuple(_paragraph(chance, country, fresh) for _ in range(NUM_PARAGRAPHS))


def _paragraph(chance: Chance, country: str, fresh: Iterator[str]) -> Paragraph:
    kind, name = chance.pick(tuple(_KINDS)), next(fresh)
    sentences = [spelled(f"{name} is a {kind} {chance.pick(('in', 'of'))} {country}.")]
    asked = []
    for fact in chance.sample(_KINDS[kind], chance.between(6, 8)):
        what, sentence, question = fact.split("; ")
        answer = _value(chance, what, fresh)
        sentences.append(spelled(sentence.format(answer) + "."))
        asked.append((spelled(question.format(name=name)), answer))
    return " ".join(sentences), tuple(asked)


def _value(chance: Chance, what: str, fresh: Iterator[str]) -> str:
    """An answer of one kind; those with names are never the same twice."""
    if what == "year":
        return str(chance.between(1200, 1990))
    if what in _UNITS:
        return f"{chance.between(12, 980)}{_UNITS[what]}"
    if what == "place":
        return next(fresh)
    if what == "person":
        return f"{next(fresh)} {next(fresh)}"
    return chance.pick(_VALUES[what])
