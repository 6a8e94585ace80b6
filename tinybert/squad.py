"""Questions about contexts as SQuAD 1.1 and 2.0 and CMRC 2018 write them: one JSON tree of articles in each file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinybert.errors import DataError
from tinybert.tabular import Table, open_text

COLUMNS = ("id", "title", "question", "context", "answers")


def read(file: Path) -> Table | None:
    """A file as rows with the columns id, title, question, context and answers {text, answer_start}.

    Contexts stand as they are in the file. Without an answer both lists are empty. Where an answer comes without its
    place, as in the files of the CMRC 2018 challenge, it is the first at which it stands in the context. Where no
    question says what its answers are, as in a hidden test, there is no column of them.

    Returns:
        None where it is another kind of JSON: rows, a line or an element each.

    Raises:
        DataError: It cannot be read, or a paragraph or a question lacks a part, such as answers where others have some.
    """
    try:
        content = json.loads("\n".join(open_text(file)))
    except json.JSONDecodeError:
        return None  # a row a line, or damaged, which the reader of rows will say
    articles = content.get("data") if isinstance(content, dict) else content
    if not isinstance(articles, list) or not all(map(_is_article, articles)):
        return None
    is_labelled = any(_is_answered(asked) for _, _, asked in _asked(articles))
    return Table(COLUMNS if is_labelled else COLUMNS[:-1], _rows(articles, file, is_labelled))


def _is_answered(asked: dict[str, Any]) -> bool:
    """Whether a question says what its answers are, or that there is none."""
    return "answers" in asked or bool(asked.get("is_impossible"))


def _asked(articles: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Each question with the article and the paragraph it stands in."""
    for article in articles:
        for paragraph in article.get("paragraphs", [article]):
            for asked in paragraph.get("qas", []):
                yield article, paragraph, asked


def _is_article(value: Any) -> bool:
    return isinstance(value, dict) and ("paragraphs" in value or "qas" in value)


def _rows(articles: list[dict[str, Any]], file: Path, is_labelled: bool) -> Iterator[dict[str, Any]]:
    for article, paragraph, asked in _asked(articles):
        row = _row(article, paragraph, asked)
        absent = [name for name in ("question", "context") if row[name] is None]
        if absent:
            raise DataError(f"{file.name}: question {row['id']!r} has no {absent[0]}; add it")
        if is_labelled and not _is_answered(asked):
            raise DataError(f"{file.name}: question {row['id']!r} has no answers; add them, [] where there is none")
        yield row


def _row(article: dict[str, Any], paragraph: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    context = paragraph.get("context", paragraph.get("context_text"))
    found = [_answer(answer, context or "") for answer in asked.get("answers") or []]
    return {
        "id": asked.get("id", asked.get("query_id")),
        "title": article.get("title"),
        "question": asked.get("question", asked.get("query_text")),
        "context": context,
        "answers": {"text": [text for text, _ in found], "answer_start": [start for _, start in found]},
    }


def _answer(answer: Any, context: str) -> tuple[str, int]:
    if isinstance(answer, str):
        return answer, context.find(answer)
    return answer["text"], answer["answer_start"] if "answer_start" in answer else context.find(answer["text"])
