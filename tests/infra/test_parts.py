"""The parts' commands and environments: loopback only, secrets in the environment only, and only where needed."""

from pathlib import Path

import pytest

from infra.stack import settings, supervisor
from infra.stack.layout import Layout
from infra.stack.parts import parts, write_identities
from tinybert.errors import InputError


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "a stack")
    layout.make()
    return layout


@pytest.fixture(params=["postgresql", "sqlite"])
def known(request, layout) -> settings.Settings:
    return settings.create(layout.env, request.param)


def secrets(known: settings.Settings) -> list[str]:
    return [known.aws_secret_access_key.get_secret_value(), known.postgres_password.get_secret_value()]


def test_a_part_comes_after_those_it_needs(layout, known):
    seen = set()
    for part in parts(layout, known).values():
        assert set(part.after) - {"postgres"} <= seen
        seen.add(part.name)
    assert ("postgres" in seen) == (known.database == "postgresql")


def test_no_secret_is_in_a_command_or_in_the_supervisors_files(layout, known):
    listed = parts(layout, known).values()
    text = supervisor.configuration(layout, listed) + " ".join(word for part in listed for word in part.command)
    assert not [secret for secret in secrets(known) if secret in text]


def test_servers_listen_on_loopback(layout, known):
    listed = parts(layout, known)
    for name, option in {
        "s3": "-ip.bind=127.0.0.1",
        "prefect": "--host 127.0.0.1",
        "mlflow": "--host 127.0.0.1",
    }.items():
        assert option in " ".join(listed[name].command)
    if known.database == "postgresql":
        assert "-clisten_addresses=127.0.0.1" in listed["postgres"].command


def test_runs_find_store_tracker_and_server_in_the_workers_environment(layout, known):
    environment = parts(layout, known)["worker"].environment
    assert environment["TINYBERT_STORE"] == "s3://artifacts/tinybert"
    assert environment["MLFLOW_TRACKING_URI"] == f"http://127.0.0.1:{known.mlflow_port}"
    assert environment["AWS_ENDPOINT_URL_S3"] == f"http://127.0.0.1:{known.s3_port}"
    assert environment["AWS_SECRET_ACCESS_KEY"] == known.aws_secret_access_key.get_secret_value()
    assert environment["PREFECT_API_URL"] == f"http://127.0.0.1:{known.prefect_port}/api"
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert environment["PREFECT_CLIENT_RETRY_EXTRA_CODES"] == "500"


def test_secrets_go_only_to_those_who_need_them(layout, known):
    keys, password = secrets(known)
    listed = parts(layout, known).values()
    assert {part.name for part in listed if keys in part.environment.values()} == {"mlflow", "worker"}
    with_password = {"prefect", "mlflow"} if known.database == "postgresql" else set()
    assert {part.name for part in listed if password in part.environment.values()} == with_password


def test_what_the_shell_has_set_for_other_servers_stays_out(layout, known, monkeypatch):
    for name in ("AWS_PROFILE", "PREFECT_API_KEY", "MLFLOW_TRACKING_TOKEN", "PGHOST", "TINYBERT_STORE"):
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("HF_HOME", "/cache")
    for part in parts(layout, known).values():
        assert "theirs" not in part.environment.values()
        assert part.environment["HF_HOME"] == "/cache"


def test_a_proxy_does_not_come_between_the_parts(layout, known, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "internal")
    for part in parts(layout, known).values():
        assert part.environment["NO_PROXY"] == "internal,127.0.0.1,localhost"


def test_the_s3_identity_reaches_one_bucket_and_administers_nothing(layout, known):
    write_identities(layout, known)
    assert layout.identities.stat().st_mode & 0o777 == 0o600
    text = layout.identities.read_text()
    for action in ("Read", "Write", "List", "Tagging"):
        assert f'"{action}:artifacts"' in text
    assert "Admin" not in text


def test_the_supervisor_reads_its_configuration(layout, known):
    from supervisor.options import ServerOptions

    listed = parts(layout, known)
    layout.configuration.write_text(supervisor.configuration(layout, listed.values()))
    options = ServerOptions()
    options.realize(["-c", str(layout.configuration)])
    read = {group.process_configs[0].name: group.process_configs[0] for group in options.process_group_configs}
    assert list(read) == list(listed)
    assert read["worker"].stdout_logfile == str(layout.log("worker"))
    assert not any(program.autostart for program in read.values())


def test_a_socket_path_that_is_too_long_is_replaced(tmp_path):
    layout = Layout(tmp_path / ("x" * 100))
    assert len(str(layout.socket)) < 100
    assert layout.socket == Layout(layout.directory).socket != Layout(tmp_path / ("y" * 100)).socket


@pytest.mark.parametrize("name", ["100%", "a;b"])
def test_a_directory_that_the_supervisor_cannot_read_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TINYBERT_STACK", str(tmp_path / name))
    with pytest.raises(InputError, match="use another directory"):
        Layout.here()
