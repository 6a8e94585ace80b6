"""What puts MLflow behind passwords in Compose and Kubernetes: the same server, one option more, no secret kept."""

import configparser
import re
from pathlib import Path

import jsonpatch
import mlflow.cli
import mlflow.environment_variables
import pytest
import yaml
from mlflow.server.auth.config import read_auth_config

INFRA = Path(__file__).parents[2] / "infra"
OURS = INFRA / "authentication"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
MORE = yaml.safe_load((OURS / "compose.yaml").read_text())
KUSTOMIZATION = yaml.safe_load((OURS / "kustomization.yaml").read_text())


@pytest.fixture
def deployment():
    """MLflow's Deployment as the kustomization leaves it."""
    documents = yaml.safe_load_all((INFRA / "kubernetes" / "mlflow.yaml").read_text())
    [found] = [document for document in documents if document["kind"] == "Deployment"]
    [patch] = KUSTOMIZATION["patches"]
    assert patch["target"] == {"kind": "Deployment", "name": found["metadata"]["name"]}
    return jsonpatch.apply_patch(found, yaml.safe_load(patch["patch"]))["spec"]["template"]["spec"]


def test_compose_starts_the_same_server_with_one_option_more():
    command = MORE["services"]["mlflow"]["command"]
    assert "--app-name=basic-auth" in command
    assert [word for word in command if not word.startswith("--app-name")] == COMPOSE["services"]["mlflow"]["command"]
    mlflow.cli.server.make_context("server", command[2:])


def test_compose_adds_to_services_that_are_there_and_asks_for_every_secret():
    assert set(MORE["services"]) <= set(COMPOSE["services"])
    values = [value for part in MORE["services"].values() for value in part["environment"].items()]
    for name, value in values:
        assert name in dir(mlflow.environment_variables)
        if re.search("PASSWORD|KEY", name):
            assert re.fullmatch(r"\$\{\w+:\?set it in infra/\.env\}", value)
    [mounted] = MORE["services"]["mlflow"]["configs"]
    assert mounted["target"] == MORE["services"]["mlflow"]["environment"]["MLFLOW_AUTH_CONFIG_PATH"]
    assert (INFRA / MORE["configs"][mounted["source"]]["file"]).resolve() == (OURS / "mlflow.ini").resolve()
    assert not set(MORE["configs"]) & set(COMPOSE["configs"])


def test_kubernetes_starts_the_same_server_with_one_option_more(deployment):
    [container] = deployment["containers"]
    assert container["args"][-1] == "--app-name=basic-auth"
    mlflow.cli.server.make_context("server", container["args"][2:])
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    volumes = {volume["name"]: volume for volume in deployment["volumes"]}
    [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "users"]
    [generated] = KUSTOMIZATION["configMapGenerator"]
    assert volumes["users"]["configMap"]["name"] == generated["name"]
    assert environment["MLFLOW_AUTH_CONFIG_PATH"] == f"{mount['mountPath']}/{generated['files'][0]}"
    assert {"secretRef": {"name": "tinybert-mlflow"}} in container["envFrom"]
    assert [(OURS / path).resolve() for path in KUSTOMIZATION["resources"]] == [INFRA / "kubernetes"]


def test_mlflow_reads_the_list_of_settings_which_holds_no_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(OURS / "mlflow.ini"))
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    read = read_auth_config()
    assert (read.admin_username, read.admin_password, read.default_permission) == ("admin", None, "READ")
    assert read.database_uri == COMPOSE["services"]["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    written = configparser.ConfigParser()
    written.read(OURS / "mlflow.ini")
    assert "admin_password" not in written["mlflow"]


def test_the_image_has_what_passwords_need():
    assert "Flask-WTF" in (INFRA / "docker" / "servers.txt").read_text().splitlines()
