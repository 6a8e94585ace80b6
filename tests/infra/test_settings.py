"""The stack's `.env`: chosen once, kept, and nobody else's to read."""

import socket
from pathlib import Path

import pytest

from infra.stack import settings
from tinybert.errors import InputError


@pytest.fixture
def env(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def listener(port: int = 0) -> socket.socket:
    taken = socket.socket()
    taken.bind(("127.0.0.1", port))
    taken.listen()
    return taken


def test_only_the_owner_may_read_the_file(env):
    settings.create(env, "sqlite")
    assert env.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in env.parent.iterdir()] == [".env"]


def test_what_was_chosen_is_kept(env):
    made = settings.create(env, "postgresql")
    assert settings.load(env) == made
    assert settings.load(env).database == "postgresql"


def test_two_stacks_have_different_secrets(tmp_path):
    one, other = (settings.create(tmp_path / name, "sqlite") for name in ("one", "other"))
    for name in ("aws_access_key_id", "aws_secret_access_key", "postgres_password"):
        assert getattr(one, name) != getattr(other, name)
    assert len(one.aws_secret_access_key.get_secret_value()) >= 32


def test_secrets_are_not_printed(env):
    made = settings.create(env, "sqlite")
    assert made.aws_secret_access_key.get_secret_value() not in repr(made)
    assert made.postgres_password.get_secret_value() not in str(made)


def test_lines_that_somebody_adds_are_handed_on(env):
    settings.create(env, "sqlite")
    with env.open("a") as file:
        file.write("HF_TOKEN=abc\nTINYBERT_EXPERIMENT=ours\n")
    assert settings.load(env).handed_on == {"HF_TOKEN": "abc", "TINYBERT_EXPERIMENT": "ours"}


def test_a_wrong_line_is_named(env):
    settings.create(env, "sqlite")
    env.write_text(env.read_text().replace("MLFLOW_PORT=", "MLFLOW_PORT=x"))
    with pytest.raises(InputError, match="MLFLOW_PORT; mend"):
        settings.load(env)


def test_a_port_that_is_taken_is_not_chosen(env, monkeypatch):
    with listener() as taken:
        port = taken.getsockname()[1]
        assert not settings.is_free(port)
        monkeypatch.setitem(settings.USUAL_PORTS, "mlflow_port", port)
        assert settings.create(env, "sqlite").mlflow_port > port
    assert settings.is_free(port)


def test_a_port_of_the_s3_server_is_free_with_its_twin(env, monkeypatch):
    with listener(31_234):
        monkeypatch.setitem(settings.USUAL_PORTS, "s3_port", 21_234)
        assert settings.create(env, "sqlite").s3_port > 21_234


def test_no_port_is_given_twice(env, monkeypatch):
    for name in settings.USUAL_PORTS:
        monkeypatch.setitem(settings.USUAL_PORTS, name, 20_100)
    made = settings.create(env, "postgresql")
    taken = [port for ports in made.ports.values() for port in ports]
    assert len(taken) == len(set(taken)) == 3 + 5 * 2
