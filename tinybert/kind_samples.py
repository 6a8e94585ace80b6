"""Tiny material for every kind of task, in the formats teams have it in, and a BERT that knows its words.

`tinybert.samples` writes it below `kinds/`, where the presets with smoke in their names read it.
"""

import csv
import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

PEOPLE = ("anna", "bruno", "clara", "david", "elena", "felix", "greta", "henry")
SURNAMES = ("stone", "rivers", "field", "marsh")
CITIES = ("paris", "london", "rome", "oslo", "lima", "cairo")
FIRMS = ("acme", "globex", "initech", "umbra")
DRINKS = ("tea", "milk", "juice", "water")
QUEUES = {
    "login": ("password", "account", "code"),
    "billing": ("invoice", "refund", "charge"),
    "shipping": ("parcel", "courier", "address"),
    "hardware": ("screen", "battery", "cable"),
    "software": ("update", "crash", "button"),
    "sales": ("offer", "price", "licence"),
}
"""Words of a support ticket by the queue it belongs in."""
PLEAS = ("please help with my {}", "there is a problem with the {}", "the {} is wrong again", "who can look at my {}")
STARS = {"awful": 1.0, "weak": 2.0, "fair": 3.0, "good": 4.0, "superb": 5.0}
THINGS = ("film", "book", "meal", "song")
CHINESE = {"\u6b63\u9762": "\u597d\u68d2\u7f8e\u4f73", "\u8d1f\u9762": "\u5dee\u574f\u7cdf\u52a3"}
"""Characters of praise and blame by the label."""
CHINESE_FRAMES = ("\u8fd9\u90e8\u7535\u5f71\u5f88{}", "\u6545\u4e8b\u771f{}", "\u97f3\u4e50\u592a{}\u4e86")


def write(directory: Path, seed: int = 0) -> None:
    """One folder a task: conll, tickets, topics, stars, squad, chinese; glue and clue as their authors' files are."""
    chance = random.Random(seed)
    _write_conll(directory / "conll", chance)
    _write_tables(directory, chance)
    _write_squad(directory / "squad", chance)
    _write_glue(directory / "glue", chance)
    _write_clue(directory / "clue", chance)


def words() -> list[str]:
    """Every word of the material, and every Chinese character, once."""
    frames = " ".join([*PLEAS, *_sentence_words(), "what does who drink where is live in lives drinks ? . , and the a"])
    known = {*frames.replace("{}", "").split(), *PEOPLE, *SURNAMES, *CITIES, *FIRMS, *DRINKS, *STARS, *THINGS}
    known |= {word for group in QUEUES.values() for word in group}
    characters = {c for text in (*CHINESE_FRAMES, *CHINESE.values()) for c in text if c not in "{}"}
    return sorted(known | characters)


def _sentence_words() -> list[str]:
    return ["flew from to hired in works for weather is fine today this was really quite"]


# Named entities -------------------------------------------------------------------------------------------------------


def tagged(chance: random.Random) -> list[tuple[str, str]]:
    """A sentence, word by word with its tag."""
    person = [
        (chance.choice(PEOPLE), "B-PER"),
        *([(chance.choice(SURNAMES), "I-PER")] if chance.random() < 0.5 else []),
    ]
    city, firm = (chance.choice(CITIES), "B-LOC"), (chance.choice(FIRMS), "B-ORG")
    other = (chance.choice(CITIES), "B-LOC")
    frames: list[list[Any]] = [
        [person, "flew from", city, "to", other],
        [firm, "hired", person, "in", city],
        [person, "works for", firm],
        ["the weather in", city, "is fine today"],
    ]
    found: list[tuple[str, str]] = []
    for part in chance.choice(frames):
        plain = [(word, "O") for word in part.split()] if isinstance(part, str) else None
        found += plain or (part if isinstance(part, list) else [part])
    return [*found, (".", "O")]


def _write_conll(directory: Path, chance: random.Random) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", 240), ("dev", 80), ("test", 80)):
        sentences = ["".join(f"{word} {tag}\n" for word, tag in tagged(chance)) for _ in range(rows)]
        (directory / f"{split}.conll").write_text("-DOCSTART- O\n\n" + "\n".join(sentences))


# Tables ---------------------------------------------------------------------------------------------------------------


def _write_tables(directory: Path, chance: random.Random) -> None:
    tickets = [(plea.format(word), queue) for queue, group in QUEUES.items() for word in group for plea in PLEAS]
    tickets += [(f"{text} {tail}", queue) for text, queue in tickets for tail in ("today", "and the address")]
    _write_csv(directory / "tickets" / "tickets.csv", ("message", "queue"), tickets, chance)
    _write_csv(directory / "topics" / "topics.csv", ("message", "topics"), list(_topics(chance, 300)), chance)
    stars = [(f"this {thing} was {how}{word}", f"{value:.1f}") for thing in THINGS for how in ("", "really ", "quite ")
             for word, value in STARS.items()]  # fmt: skip
    stars += [(f"{text} and the {other} is fine", value) for text, value in stars for other in THINGS]
    _write_csv(directory / "stars" / "stars.csv", ("text", "stars"), stars, chance)
    chinese = [(frame.format(c), label) for label, good in CHINESE.items() for c in good for frame in CHINESE_FRAMES]
    pairs = [(f"{one}\uff0c{two}", label) for one, label in chinese for two, other in chinese if other == label]
    _write_csv(directory / "chinese" / "chinese.csv", ("text", "label"), [*chinese, *pairs], chance)


def _topics(chance: random.Random, rows: int) -> Iterator[tuple[str, str]]:
    for _ in range(rows):
        queues = sorted(chance.sample(list(QUEUES), chance.choice((0, 1, 1, 2))))
        parts = [chance.choice(PLEAS).format(chance.choice(QUEUES[queue])) for queue in queues]
        yield " and ".join([*parts, f"the weather in {chance.choice(CITIES)} is fine"]), ";".join(queues)


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple[str, str]], chance: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    chance.shuffle(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


# GLUE -----------------------------------------------------------------------------------------------------------------

GLUE_FILES = {
    "CoLA": {"train": 200, "dev": 60},
    "MRPC": {"train": 200, "dev": 60},
    "STS-B": {"train": 200, "dev": 60},
    "MNLI": {"train": 240, "dev_matched": 60, "dev_mismatched": 60},
}
"""Rows of each file."""
_HEADERS = {
    "CoLA": "",
    "MRPC": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
    "STS-B": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n",
    "MNLI": "index\tpromptID\tpairID\tgenre\tsentence1\tsentence2\tgold_label\n",
}


def _glue_row(task: str, number: int, chance: random.Random) -> str:
    thing, star = chance.choice(THINGS), chance.choice(list(STARS))
    one, other = f"this {thing} was {star}", f"the {chance.choice(CITIES)} {thing}"
    if task == "CoLA":
        right = chance.random() < 0.6
        said = one if right else f"{star} was {thing} this in"
        return f"made\t{int(right)}\t{'' if right else '*'}\t{said} , number {number}"
    if task == "MRPC":
        same = chance.random() < 0.6
        return f'{int(same)}\t{number}\t{number}\t" {one}\t{other} is {"fine" if same else "wrong"}'
    if task == "STS-B":
        return f"{number}\tmade\tnone\t2020\t{number}\tnone\tnone\t{one}\t{other} {number}\t{STARS[star]:.2f}"
    relation, word = chance.choice([("entailment", "fine"), ("neutral", "today"), ("contradiction", "wrong")])
    return f"{number}\t{number}\t{number}\tmade\t{one} , number {number}\t{other} is {word}\t{relation}"


def _write_glue(directory: Path, chance: random.Random) -> None:
    for task, files in GLUE_FILES.items():
        (directory / task).mkdir(parents=True, exist_ok=True)
        for file, rows in files.items():
            first = 1000 * list(files).index(file)
            lines = [_glue_row(task, first + number, chance) + "\n" for number in range(rows)]
            (directory / task / f"{file}.tsv").write_text(_HEADERS[task] + "".join(lines), encoding="utf-8")


# CLUE -----------------------------------------------------------------------------------------------------------------

CLUE_ROWS = {"train": 128, "dev": 56, "test": 8}
"""Rows of each file."""
_NEWS = {"102": "news_entertainment", "100": "news_story", "101": "news_culture"}
"""Labels of TNEWS for sentences in each of the Chinese frames."""


def _news(chance: random.Random) -> list[dict[str, Any]]:
    characters = "".join(CHINESE.values())
    rows = [
        {
            "label": label,
            "label_desc": name,
            "sentence": f"{frame.format(one)}\uff0c{frame.format(other)}",
            "keywords": "",
        }
        for (label, name), frame in zip(_NEWS.items(), CHINESE_FRAMES, strict=True)
        for one in characters
        for other in characters
    ]
    chance.shuffle(rows)
    return rows


def _papers(chance: random.Random) -> Iterator[dict[str, Any]]:
    """Abstracts with keywords: of an author, which here praise, or forged."""
    while True:
        label = chance.randrange(2)
        keywords = chance.sample(list(CHINESE.values())[1 - label], 2)
        said = [frame.format(chance.choice("".join(CHINESE.values()))) for frame in CHINESE_FRAMES]
        yield {"id": chance.randrange(10**6), "abst": "\uff0c".join(said), "keyword": keywords, "label": str(label)}


def _write_clue(directory: Path, chance: random.Random) -> None:
    """The rows a line in files called json; those of the test have no label."""
    for task, rows in (("tnews", iter(_news(chance))), ("csl", _papers(chance))):
        (directory / task).mkdir(parents=True, exist_ok=True)
        for split, count in CLUE_ROWS.items():
            lines = [dict(row) for row in islice(rows, count)]
            if split == "test":
                lines = [{name: row[name] for name in row if not name.startswith("label")} for row in lines]
            _write_lines(directory / task / f"{split}.json", lines)
    labels = [{"label": label, "label_desc": name} for label, name in _NEWS.items()]
    _write_lines(directory / "tnews" / "labels.json", labels)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# Questions ------------------------------------------------------------------------------------------------------------


def _question(number: int, chance: random.Random) -> dict[str, Any]:
    """A paragraph in SQuAD's format: who lives where and drinks what, and a question about one of them."""
    people = chance.sample(PEOPLE, 4)
    facts = [(f"{person} lives in ", chance.choice(CITIES), f"where does {person} live ?") for person in people[:2]]
    facts += [(f"{person} drinks ", chance.choice(DRINKS), f"what does {person} drink ?") for person in people[2:]]
    chance.shuffle(facts)
    place = chance.randrange(len(facts))
    start = sum(len(f"{said}{answer} . ") for said, answer, _ in facts[:place]) + len(facts[place][0])
    asked = {"id": str(number), "question": facts[place][2]}
    answer = {"answers": [{"text": facts[place][1], "answer_start": start}]}
    return {"context": " ".join(f"{said}{found} ." for said, found, _ in facts), "qas": [asked | answer]}


def _write_squad(directory: Path, chance: random.Random) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", 320), ("dev", 100)):
        paragraphs = [_question(number, chance) for number in range(rows)]
        content = {"version": "1.1", "data": [{"title": "people", "paragraphs": paragraphs}]}
        (directory / f"{split}.json").write_text(json.dumps(content))
