"""What is read runs no code: no pickles, no code out of model directories, no way out of archives."""

import ast
import contextlib
import importlib
import json
import os
import pickle
import pkgutil
import stat
import zipfile
from pathlib import Path

import prefect
import pytest
import torch
from safetensors.torch import save_file

import flows
import tasks
from tests.unit.line import Line, Points
from tinybert import kinds, models, sources, vector_files
from tinybert.errors import DataError, SourceError
from tinybert.libraries import quiet
from tinybert.training import train
from tinybert.training_config import OptimConfig

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("tinybert", "tasks", "flows", "infra") for path in (ROOT / folder).rglob("*.py"))

PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
"""Modules that run what they read."""
WILD = {
    "eval": "runs text",
    "exec": "runs text",
    "os.system": "runs text in a shell",
    "os.popen": "runs text in a shell",
    "yaml.load": "use yaml.safe_load",
    "yaml.load_all": "use yaml.safe_load_all",
    "yaml.full_load": "use yaml.safe_load",
    "yaml.unsafe_load": "use yaml.safe_load",
    "shutil.unpack_archive": "writes where the archive says",
    "torch.jit.load": "runs what it reads",
    "torch.hub.load": "runs what it fetches",
}


def dangers(text: str) -> list[str]:
    """What in a module could run code that comes with data, by line."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(node, f"import {alias.name}") for alias in node.names if alias.name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLES:
            found.append((node, f"from {node.module} import"))
        elif isinstance(node, ast.Call):
            found += [(node, problem) for problem in call_dangers(node)]
    return [f"{node.lineno}: {problem}" for node, problem in found]


def call_dangers(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    found = [f"{name}: {WILD[name]}"] if name in WILD else []
    if name == "torch.load" and given.get("weights_only") != "True":
        found.append("torch.load without weights_only=True")
    if given.get("allow_pickle", "False") != "False":
        found.append(f"{name}(allow_pickle={given['allow_pickle']})")
    if given.get("trust_remote_code", "False") != "False":
        found.append(f"{name}(trust_remote_code={given['trust_remote_code']})")
    if given.get("shell", "False") != "False":
        found.append(f"{name}(shell={given['shell']})")
    if last == "extractall" and given.get("filter") != "'data'":
        found.append(f"{name} without filter='data'")
    if last in ("extract", "read_pickle", "loads_pickle"):
        found.append(name)
    if None in given and last in ("load", "from_pretrained") and name != "OmegaConf.load" and not _is_known(call):
        found.append(f"{name}: options that cannot be seen here")
    return found


def _is_known(call: ast.Call) -> bool:
    """`**kind.options(...)` names labels and the kind of problem, nothing else."""
    hidden = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None]
    return all(text == "options" or ".options(" in text for text in hidden)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_could_run_what_it_reads(path):
    assert dangers(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import joblib.numpy_pickle",
        "from cloudpickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=sure)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=config.trust)",
        "AutoModel.from_pretrained(path, **more)",
        "yaml.load(text, Loader=yaml.Loader)",
        "archive.extractall(directory)",
        "archive.extractall(directory, filter='fully_trusted')",
        "archive.extract(member)",
        "subprocess.run(text, shell=True)",
        "exec(text)",
    ],
)
def test_the_search_for_dangers_finds_them(line):
    assert len(dangers(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, mmap_mode='r', allow_pickle=False)",
        "AutoModel.from_pretrained(path, trust_remote_code=False)",
        "yaml.safe_load(text)",
        "archive.extractall(directory, filter='data')",
        "subprocess.run(['true'])",
    ],
)
def test_the_search_for_dangers_finds_nothing_else(line):
    assert dangers(line) == []


class Trap:
    """Unpickled, it makes a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __reduce__(self):
        return os.mkdir, (str(self.directory),)


@pytest.fixture
def trap(tmp_path):
    return tmp_path / "the-trap-was-sprung"


@pytest.fixture
def model(tmp_path, smoke_material):
    """A model directory with a pickle in place of its weights."""
    directory = tmp_path / "model"
    directory.mkdir()
    for file in (smoke_material / "teacher").iterdir():
        if file.suffix != ".safetensors":
            (directory / file.name).write_bytes(file.read_bytes())
    return directory


LOADERS = {
    "encoder": models.load_encoder,
    "teacher": lambda directory: models.load_teacher(directory, 1),
    "classifier": lambda directory: models.load_model(directory, kinds.KINDS["classification"]),
    "config": models.load_config,
    "tokenizer": models.load_tokenizer,
}


def test_the_trap_is_one(trap, tmp_path):
    torch.save(Trap(trap), tmp_path / "pickle")
    torch.load(tmp_path / "pickle", weights_only=False)
    assert trap.exists()


@pytest.mark.parametrize("loader", ["encoder", "teacher", "classifier"])
def test_pickled_weights_are_not_read(model, trap, loader):
    torch.save({"weights": Trap(trap)}, model / "pytorch_model.bin")
    with pytest.raises(SourceError, match="only safetensors is read, never pickles"):
        sources.resolve(f"file:{model}", "model")
    with pytest.raises(OSError, match="safetensors"):
        LOADERS[loader](model)
    assert not trap.exists()


def test_pickled_weights_beside_others_are_not_read(model, trap, smoke_material):
    torch.save({"weights": Trap(trap)}, model / "pytorch_model.bin")
    (model / "model.safetensors").write_bytes((smoke_material / "teacher" / "model.safetensors").read_bytes())
    models.load_encoder(sources.resolve(f"file:{model}", "model"))
    assert not trap.exists()


@pytest.mark.parametrize("answer", ["y", ""])
@pytest.mark.parametrize("loader", LOADERS)
def test_code_of_a_model_directory_is_not_run_whatever_somebody_answers(model, trap, loader, answer, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: answer)
    save_file({"weight": torch.zeros(1)}, model / "model.safetensors", metadata={"format": "pt"})
    foreign = {"AutoConfig": "own.Own", "AutoModel": "own.Own", "AutoModelForSequenceClassification": "own.Own"}
    config = {"model_type": "of-its-own", "auto_map": foreign, "tokenizer_class": "Own"}
    (model / "config.json").write_text(json.dumps(config))
    tokenizer = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (model / "own.py").write_text(f"import os\nos.mkdir({str(trap)!r})\nclass Own: pass\n")
    quiet()
    with pytest.raises((ValueError, OSError, KeyError)):
        LOADERS[loader](model)
    assert not trap.exists()


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_holds_more_than_numbers_is_not_unpickled(tmp_path, trap, file):
    def job(steps: int) -> None:
        optim = OptimConfig(steps=steps, batch_size=8, checkpoint_every=2, precision="fp32")
        train("line", Line(), Points(), optim, tmp_path / "out", lambda metrics, step: None)

    job(2)
    [checkpoint] = (tmp_path / "out-resume").glob("checkpoint-*")
    assert (checkpoint / file).exists()
    torch.save({"weights": Trap(trap)}, checkpoint / file)
    with contextlib.suppress(pickle.UnpicklingError):  # raised for those files that are read
        job(4)
    assert not trap.exists()


def test_a_link_in_a_zip_is_not_followed(tmp_path):
    (tmp_path / "secret.txt").write_text("word 1 2 3\n")
    link = zipfile.ZipInfo("vectors.txt")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, str(tmp_path / "secret.txt"))
    with pytest.raises(DataError, match="expected a word and its numbers"):
        list(vector_files.read([tmp_path / "a.zip"]))


def test_a_device_in_a_zip_is_not_made(tmp_path):
    device = zipfile.ZipInfo("../vectors.txt")
    device.create_system, device.external_attr = 3, (stat.S_IFCHR | 0o666) << 16
    (tmp_path / "inside").mkdir()
    with zipfile.ZipFile(tmp_path / "inside" / "a.zip", "w") as archive:
        archive.writestr(device, "word 1 2 3\n")
    [(words, _)] = vector_files.read([tmp_path / "inside" / "a.zip"])
    assert words == ["word"]
    assert {path.name for path in tmp_path.rglob("*")} == {"inside", "a.zip"}


@pytest.mark.parametrize("uri", ["file:/dev/zero", "file:/dev/stdin"])
def test_a_device_is_no_source(uri):
    with pytest.raises(SourceError):
        sources.resolve(uri)


def modules(package) -> list:
    names = [module.name for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
    programs = {"tasks.torch_launch", "tasks.ray_launch"}
    return [importlib.import_module(name) for name in names if name not in programs]


def test_what_prefect_keeps_is_json():
    kept = {task.name: task for module in modules(tasks) for task in vars(module).values() if is_kept(task)}
    assert len(kept) > 10
    assert {task.result_serializer for task in kept.values()} == {"json"}
    jobs = [flow for module in modules(flows) for flow in vars(module).values() if isinstance(flow, prefect.Flow)]
    assert len(jobs) > 3
    assert not [flow.name for flow in jobs if flow.persist_result]


def is_kept(value) -> bool:
    return isinstance(value, prefect.Task) and bool(value.persist_result)
