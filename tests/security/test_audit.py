"""An audit in which nothing was looked up does not pass for one that found nothing."""

import pytest

from infra import audit

SAFE = {"name": "here", "version": "1.0", "vulns": []}
MENDED = {"name": "there", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1", "3.0"], "aliases": []}]}
OPEN = {"name": "where", "version": "3.0", "vulns": [{"id": "CVE-2", "fix_versions": [], "aliases": []}]}
SKIPPED = {"name": "nowhere", "skip_reason": "Dependency not found on PyPI"}


@pytest.fixture
def services(monkeypatch):
    answers = {}
    monkeypatch.setattr(audit, "ask", lambda service: answers.get(service, []))
    return answers


def test_vulnerabilities_are_listed_with_their_remedy(services, capsys):
    services["pypi"] = [SAFE, MENDED, OPEN, SKIPPED]
    assert audit.main() == 1
    said = capsys.readouterr().out
    assert "there 2.0: CVE-1, mended in 2.1 or 3.0\nwhere 3.0: CVE-2, not mended yet" in said
    assert "(3 packages looked up at pypi, 1 not)" in said


def test_nothing_found_counts_what_was_looked_up(services, capsys):
    services["pypi"] = [SAFE, SKIPPED]
    assert audit.main() == 0
    assert capsys.readouterr().out == "no known vulnerability (1 packages looked up at pypi, 1 not)\n"


def test_the_second_service_is_asked_where_the_first_knows_nothing(services, capsys):
    services |= {"pypi": [SKIPPED, SKIPPED], "osv": [OPEN]}
    assert audit.main() == 1
    assert "looked up at osv" in capsys.readouterr().out


@pytest.mark.parametrize("answers", [{}, {"pypi": [SKIPPED]}])
def test_where_nobody_answers_it_says_so_and_passes(services, answers, capsys):
    services |= answers
    assert audit.main() == 0
    told = capsys.readouterr()
    assert "no advisory service answers here" in told.err
    assert "no known vulnerability" not in told.out


def test_an_answer_that_is_none_is_nothing(tmp_path):
    (tmp_path / "constraints.txt").write_text("no requirement at all ==\n")
    assert audit.ask("pypi", tmp_path / "constraints.txt") == []
