"""Registered models in a real MLflow, and packages that MLflow loads and serves."""

import ast
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import pytest
import torch
import yaml
from transformers import BertConfig, BertTokenizerFast, pipeline

from tasks import sources
from tasks.connections import registry, store
from tasks.registry import make_servable
from tinybert.digest import content_digest
from tinybert.errors import InputError, SourceError
from tinybert.kinds import kind_of
from tinybert.models import save
from tinybert.refs import ModelRef
from tinybert.released import Released, Variant
from tinybert.samples import vocabulary

pytestmark = pytest.mark.usefixtures("shared_home")

DIGEST = "cd" * 32
LABELS = ["bad", "good"]
NAMES = {
    "multi_label": LABELS,
    "regression": ["stars"],
    "token_classification": ["O", "B-THING"],
    "question_answering": ["start", "end"],
}
"""Of the outputs of a model of each other kind."""


@pytest.fixture
def name(request):
    """A model of its own for each test."""
    return request.function.__name__


def write_package(directory: Path, pair: bool = False, kind: str = "classification") -> Path:
    """A tiny real model as the stage `package` leaves it, served by torch."""
    torch.manual_seed(0)
    labels = NAMES.get(kind, LABELS)
    tokenizer = BertTokenizerFast(vocab=vocabulary())
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    options = {**shape, **kind_of(kind).options(labels), "initializer_range": 0.5}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **options)
    save(kind_of(kind).auto_class().from_config(config), tokenizer, directory, 16)
    variants = {"torch": Variant(file="model.safetensors", temperature=2.0)}
    fields = {"labels": labels, "max_length": 16, "default": "torch", "variants": variants}
    Released(kind=kind, pair=pair, **fields).write(directory)
    (directory / "README.md").write_text("A student.")
    return directory


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The same package twice, and one for pairs, all servable."""
    made = [write_package(tmp_path_factory.mktemp("package"), pair) for pair in (False, False, True)]
    for directory in made:
        make_servable(directory)
    return made


@pytest.fixture(scope="module")
def champion(shared_home, packages):
    """The name of a registered model whose champion is the package."""
    place = store().put("model", packages[0])
    version = registry().register("mood", place.uri, place.digest, {"verdict": "promote"}, "The first.")
    registry().crown("mood", version.number)
    return "mood"


def test_registering_twice_gives_one_version(name):
    first = registry().register(name, "s3://bucket/model/1", DIGEST, {"accuracy": "0.9"}, "The first.")
    other = registry().register(name, "s3://bucket/model/2", "ef" * 32, {})
    again = registry().register(name, "s3://bucket/model/1", DIGEST, {"accuracy": "0.1"})
    assert (first.number, other.number) == ("1", "2")
    assert again == first
    version = registry().client.get_model_version(name, "1")
    assert (version.source, version.description) == ("s3://bucket/model/1", "The first.")
    assert version.tags == {"accuracy": "0.9", "uri": "s3://bucket/model/1", "digest": DIGEST}
    assert registry().model(name).aliases == {}


def test_a_champion_makes_way_and_is_remembered(name):
    one, two, three = (registry().register(name, f"s3://bucket/{n}", str(n) * 64, {}).number for n in range(3))
    registry().challenge(name, two)
    registry().crown(name, one)
    assert registry().model(name).aliases == {"champion": one, "challenger": two}
    registry().crown(name, two)
    assert registry().model(name).aliases == {"champion": two, "previous": one}
    registry().crown(name, two)
    assert registry().model(name).aliases == {"champion": two, "previous": one}
    registry().crown(name, three)
    assert registry().model(name).aliases == {"champion": three, "previous": two}


def test_tags_are_set_replaced_and_removed(name):
    number = registry().register(name, "s3://bucket/model/1", DIGEST, {"a": "1", "b": "2"}).number
    registry().tag(name, number, {"a": "3", "b": None, "c": "4", "d": None})
    assert registry().model(name).get(number).tags == {
        "a": "3",
        "c": "4",
        "uri": "s3://bucket/model/1",
        "digest": DIGEST,
    }


def test_models_that_are_not_there(name):
    with pytest.raises(SourceError, match="known versions: none; known aliases: none"):
        registry().model(name).get("champion")
    registry().challenge(name, registry().register(name, "s3://bucket/model/1", DIGEST, {}).number)
    with pytest.raises(SourceError, match="'champion'; known versions: 1; known aliases: challenger"):
        registry().model(name).get("champion")
    assert registry().model(name).find("champion") is None
    registry().client.create_model_version(name, "s3://elsewhere")
    with pytest.raises(SourceError, match="no tags uri and digest"):
        registry().model(name).get("2")


def test_names_the_registry_refuses():
    with pytest.raises(InputError, match="a/b"):
        registry().register("a/b", "s3://bucket/model/1", DIGEST, {})


def test_a_champion_is_a_source(champion, packages):
    ref = sources.pin("models:/mood@champion", ModelRef)
    assert ref == sources.pin("models:/mood/1", ModelRef)
    assert ref.digest == content_digest(packages[0]) == content_digest(sources.local(ref))


def test_the_same_package_gets_the_same_description(packages):
    assert content_digest(packages[0]) == content_digest(packages[1])
    before = content_digest(packages[0])
    make_servable(packages[0])
    assert content_digest(packages[0]) == before != content_digest(packages[2])


def test_a_package_has_no_pickle_and_says_what_it_needs(packages):
    described = yaml.safe_load((packages[0] / "MLmodel").read_text())
    assert described["flavors"].keys() == {"python_function"}
    flavor = described["flavors"]["python_function"]
    assert (flavor["loader_module"], flavor["code"], flavor["data"]) == ("tinybert.serving", "code", ".")
    assert not [path for path in packages[0].rglob("*") if path.suffix in {".pkl", ".bin", ".pt"}]
    required = (packages[0] / "requirements.txt").read_text().split()
    assert all(re.fullmatch(r"[a-z]+==[0-9.]+(\.?(a|b|rc|post)\d+)?", line) for line in required)
    named = {line.partition("==")[0] for line in required}
    libraries = {"mlflow", "numpy", "pandas", "pyarrow", "pydantic", "safetensors", "tokenizers"}
    assert named == {*libraries, "torch", "transformers"}


def test_all_that_the_code_imports_at_once_is_there(packages):
    required = {line.partition("==")[0] for line in (packages[0] / "requirements.txt").read_text().split()}
    code = packages[0] / "code"
    for path in code.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for imported in names:
                top = imported.partition(".")[0]
                ours = code.joinpath(*imported.split("."))
                there = ours.is_dir() or ours.with_suffix(".py").is_file()
                assert there or top in required or top in sys.stdlib_module_names or path.name == "cli.py", imported


LOAD = """
import json, sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
answers = model.predict(json.loads(sys.argv[3]))
import tinybert.serving
ours = {m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] == "tinybert" and m.__file__}
print(json.dumps([answers.to_dict("records"), tinybert.serving.__file__, sorted(ours)]))
"""


def loaded(shared_home, uri, texts, tmp_path):
    """What a process answers that has MLflow, and of our code what the package brings."""
    command = [sys.executable, "-c", LOAD, f"sqlite:///{shared_home}/mlflow.db", uri, json.dumps(texts)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def stored_at(name):
    """The champion's directory in the store."""
    return Path(sources.pin(f"models:/{name}@champion", ModelRef).uri.removeprefix("file:"))


def test_mlflow_loads_the_champion_with_its_own_code(champion, shared_home, tmp_path):
    texts = ["a wonderful film", 5, "", None, "boring " * 1000]
    answers, module, ours = loaded(shared_home, "models:/mood@champion", texts, tmp_path)
    code = stored_at(champion) / "code"
    assert Path(module) == code / "tinybert" / "serving.py"
    assert all(Path(file).is_relative_to(code) for file in ours)
    assert [answer["label"] in LABELS for answer in answers] == [True, False, True, False, True]
    assert [answer["truncated"] for answer in answers] == [False, False, False, False, True]
    assert answers[1]["error"] == "text is of type int; give a string"
    assert answers[3]["error"] == "text is missing; give a string"
    assert answers[0]["error"] is None
    assert answers[0]["p_bad"] + answers[0]["p_good"] == pytest.approx(1)


def test_what_mlflow_has_loaded_is_still_whole(champion):
    """It leaves a file `registered_model_meta` in the directory it loads, which is the store's own."""
    ref = sources.pin("models:/mood@champion", ModelRef)
    mlflow.artifacts.download_artifacts("models:/mood@champion", tracking_uri=registry().client.tracking_uri)
    assert sources.local(ref) == stored_at(champion)


def test_mlflow_takes_pairs(packages, shared_home, tmp_path):
    texts = [["a wonderful film", "the script is dreadful"], ["a film", 5]]
    answers, _, _ = loaded(shared_home, packages[2].as_uri(), texts, tmp_path)
    assert answers[0]["label"] in LABELS
    assert answers[1]["error"] == "text_pair is of type int; give a string"


ASKED = {
    "multi_label": ["a wonderful film"],
    "regression": ["a wonderful film"],
    "token_classification": ["a wonderful film"],
    "question_answering": [["what film", "the film is wonderful"]],
}
SAID = {
    "multi_label": {"labels": list, "p_bad": float, "p_good": float},
    "regression": {"value": float},
    "token_classification": {"entities": list},
    "question_answering": {"answer": str, "start": int, "end": int, "score": float},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ASKED)
def test_mlflow_loads_every_kind_with_its_own_code(kind, shared_home, tmp_path):
    package = write_package(tmp_path / "package", kind == "question_answering", kind)
    make_servable(package)
    required = (package / "requirements.txt").read_text()
    assert ("seqeval==" in required) == (kind == "token_classification")
    [example] = json.loads((package / "input_example.json").read_text())
    answers, module, _ = loaded(shared_home, str(package), [*ASKED[kind], example], tmp_path)
    assert [answer["error"] for answer in answers] == [None, None]
    assert Path(module) == package / "code" / "tinybert" / "serving.py"
    assert list(answers[0]) == [*SAID[kind], "truncated", "error"]
    for name, type_ in SAID[kind].items():
        assert isinstance(answers[0][name], type_ if answers[0].get("answer") != "" else type_ | None)
    signature = mlflow.models.get_model_info(str(package)).signature
    assert signature.outputs.input_names() == list(answers[0])
    assert len(signature.inputs.inputs) == (2 if kind == "question_answering" else 1)


def test_transformers_loads_the_champion(champion):
    [answer] = pipeline("text-classification", model=str(stored_at(champion)), truncation=True)(["a wonderful film"])
    assert answer["label"] in LABELS


@pytest.fixture(scope="module")
def served(champion, shared_home, tmp_path_factory):
    """Where `mlflow models serve` answers for the champion."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bin_ = Path(sys.executable).parent
    place = tmp_path_factory.mktemp("served")
    command = [bin_ / "mlflow", "models", "serve", "--env-manager", "local", "-m", f"models:/{champion}@champion"]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{shared_home}/mlflow.db",
        "PATH": f"{bin_}:{os.environ['PATH']}",
    }
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=place, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait(f"http://127.0.0.1:{port}/ping", process, place / "log")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def wait(url, process, log):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return urllib.request.urlopen(url, timeout=5)
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


def ask(url, body):
    """Status and content of the answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())["predictions"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["message"]


@pytest.mark.slow
def test_good_input_over_http(served):
    forms = [
        {"inputs": ["a wonderful film", "boring"]},
        {"inputs": [{"text": "a wonderful film"}, {"text": "boring"}]},
        {"dataframe_split": {"columns": ["text"], "data": [["a wonderful film"], ["boring"]]}},
        {"dataframe_records": [{"text": "a wonderful film"}, {"text": "boring", "more": 1}]},
    ]
    answers = [ask(served, form) for form in forms]
    assert [status for status, _ in answers] == [200] * 4
    assert all(answer == answers[0][1] for _, answer in answers)
    first = answers[0][1][0]
    assert first.keys() == {"label", "score", "truncated", "error", "p_bad", "p_good"}
    assert first["score"] == first[f"p_{first['label']}"] == max(first["p_bad"], first["p_good"])


@pytest.mark.slow
def test_a_bad_value_over_http_leaves_the_others_their_answers(served):
    status, answers = ask(served, {"inputs": ["a wonderful film", 5, None, "", ["x", "y", "z"], "film " * 20_000]})
    assert status == 200
    assert [answer["label"] in LABELS for answer in answers] == [True, False, False, True, False, True]
    assert [answer["error"] for answer in answers][:4] == [
        None,
        "text is of type int; give a string",
        "text is missing; give a string",
        None,
    ]
    assert answers[5]["truncated"]
    status, answers = ask(served, {"dataframe_split": {"columns": ["text"], "data": [[5], ["a wonderful film"]]}})
    assert (status, answers[0]["error"]) == (200, "text is of type int; give a string")
    assert answers[1]["label"] in LABELS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"inputs": ["a', "valid JSON"),
        (b"[1, 2]", "must be a JSON dictionary"),
        ({"text": ["a wonderful film"]}, "exactly one of the input fields"),
        ({"inputs": {"text": ["a wonderful film"]}}, "un-named"),
        ({"inputs": []}, "missing inputs"),
        ({"dataframe_records": []}, "missing inputs"),
    ],
)
def test_bad_input_over_http_is_refused_in_words(served, body, message):
    status, said = ask(served, body)
    assert status == 400
    assert message in said
    assert ask(served, {"inputs": ["a wonderful film"]})[0] == 200
