"""What `make up` says once the stack is there, at the first start and at every other."""

import pytest

from infra.stack import __main__ as command
from infra.stack import control, settings
from infra.stack.layout import Layout


@pytest.fixture
def layout(tmp_path) -> Layout:
    layout = Layout(tmp_path / "it")
    layout.make()
    return layout


DATABASES = [
    ("postgresql", "database  PostgreSQL"),
    ("sqlite", "database  SQLite: enough for one person, slow for several"),
]


@pytest.mark.parametrize(("chosen", "line"), DATABASES)
def test_every_start_says_which_database_there_is(layout, monkeypatch, capsys, chosen, line):
    settings.create(layout.env, chosen)  # by an earlier start
    monkeypatch.setattr(control, "prepare", lambda layout, say: settings.load(layout.env))
    monkeypatch.setattr(control, "bring_up", lambda *_: True)
    monkeypatch.setattr(control, "watch", lambda layout: iter(()))
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    assert command.up(layout) == 0
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("chosen", "line"), DATABASES)
def test_who_asks_for_a_stack_that_runs_is_told_too(layout, capsys, chosen, line):
    settings.create(layout.env, chosen)
    with control.lock(layout):
        assert command.up(layout) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"the stack in {layout.directory} is already running, or about to"
    assert line in said
