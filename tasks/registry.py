"""Registered models: versions, the aliases champion, challenger and previous, and the package MLflow can serve.

MLflow has no compare-and-set on an alias, so whoever moves aliases holds the concurrency limit `promotions` meanwhile.
Here the order of writes makes sure that a process killed between any two leaves `champion` where it was, or moved with
`previous` already naming the one before; doing the same again completes it.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks import spool as events
from tasks.policy import PACKAGE, source_modules
from tasks.tracking import REFUSALS, Tracker, error_code, locked
from tinybert.data_config import KindName
from tinybert.digest import files_digest, list_files
from tinybert.errors import InputError, SourceError, TransientError
from tinybert.released import ERROR, TORCH, TRUNCATED, Released

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
LOADER = f"{PACKAGE}.serving"
SERVED_BY = ["mlflow", "numpy", "pandas", "pyarrow", "pydantic", "safetensors", "tokenizers", "torch", "transformers"]
DESCRIPTION = ("MLmodel", "input_example.json", "serving_input_example.json")
EXAMPLES: dict[KindName, tuple[str, str]] = {
    "classification": ("The sentence to be classified.",) * 2,
    "multi_label": ("The sentence to be classified.",) * 2,
    "regression": ("The sentence to be measured.",) * 2,
    "token_classification": ("The sentence whose words are to be tagged.",) * 2,
    "question_answering": ("Who wrote the letter?", "The letter was written by Ada in the spring."),
}
"""A text, and its pair, to show how a model is asked, by kind of task."""


class Version(BaseModel):
    """A version of a registered model that this pipeline published."""

    model_config = ConfigDict(frozen=True)

    number: str
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        """Where its files are."""
        return self.tags["uri"]

    @property
    def digest(self) -> str:
        """Of its files."""
        return self.tags["digest"]


class Registered(BaseModel):
    """A registered model as it stands: the tags of its versions, and the version of each alias."""

    model_config = ConfigDict(frozen=True)

    name: str
    versions: dict[str, dict[str, str]] = {}
    aliases: dict[str, str] = {}

    def find(self, version_or_alias: str) -> Version | None:
        """The version of this number or alias, None where there is none.

        Raises:
            SourceError: Something else registered it.
        """
        number = self.aliases.get(version_or_alias, version_or_alias)
        tags = self.versions.get(number)
        if tags is None:
            return None
        if not {"uri", "digest"} <= tags.keys():
            raise SourceError(
                f"models:/{self.name}: {version_or_alias!r} has no tags uri and digest, so this pipeline "
                "did not publish it; name a version that it published, or the model's own location"
            )
        return Version(number=number, tags=tags)

    def get(self, version_or_alias: str) -> Version:
        """The version of this number or alias.

        Raises:
            SourceError: There is none, or something else registered it.
        """
        found = self.find(version_or_alias)
        if found is None:
            raise SourceError(
                f"models:/{self.name}: found no version or alias {version_or_alias!r}; known versions: "
                f"{', '.join(sorted(self.versions, key=int)) or 'none'}; known aliases: "
                f"{', '.join(sorted(self.aliases)) or 'none'}"
            )
        return found


class Registry:
    """The registered models of a tracker's MLflow.

    Unlike what a tracker does, everything here raises: publishing without a registry makes no sense. InputError says
    that MLflow refuses a name, a tag or a URI (a server takes no local path), TransientError that it does not answer.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    @property
    def client(self) -> Any:
        """The MlflowClient."""
        return self._tracker.client

    def model(self, name: str) -> Registered:
        """A registered model as it stands; without versions where there is none of that name."""
        with _answering(f"looking up model {name!r}"):
            versions = {str(v.version): dict(v.tags) for v in self.client.search_model_versions(f"name='{name}'")}
            aliases = self.client.get_registered_model(name).aliases if versions else {}
        return Registered(name=name, versions=versions, aliases={a: str(number) for a, number in aliases.items()})

    def register(self, name: str, uri: str, digest: str, tags: dict[str, str], description: str = "") -> Version:
        """The version, new or known, of the registered model with this digest; no alias moves."""
        model = self.model(name)
        known = [number for number, told in model.versions.items() if told.get("digest") == digest]
        if known:
            return model.get(min(known, key=int))
        tags = {**events.allowed_tags(tags), "uri": uri, "digest": digest}
        with _answering(f"registering {name!r}"):
            self._ensure_model(name)
            made = self.client.create_model_version(name, uri, tags=tags, description=description or None)
        return Version(number=str(made.version), tags=tags)

    def challenge(self, name: str, version: str) -> None:
        """Give a version the alias `challenger`."""
        with _answering(f"giving version {version} of {name!r} its alias"):
            self.client.set_registered_model_alias(name, CHALLENGER, version)

    def tag(self, name: str, version: str, tags: dict[str, str | None]) -> None:
        """Set tags of a version, one after the other; None removes one, if it is there."""
        present = self.model(name).get(version).tags
        with _answering(f"tagging version {version} of {name!r}"):
            for key, value in tags.items():
                if value is not None:
                    [(key, value)] = events.allowed_tags({key: value}).items()
                    self.client.set_model_version_tag(name, version, key, value)
                elif key in present:
                    self.client.delete_model_version_tag(name, version, key)

    def crown(self, name: str, version: str) -> None:
        """Make a version the champion, and the champion there is `previous`; the new one challenges nobody any more.

        The caller holds the concurrency limit `promotions`. For a version that is champion already, this completes
        what a kill may have left undone.
        """
        aliases = self.model(name).aliases
        old = aliases.get(CHAMPION)
        with _answering(f"making version {version} of {name!r} its champion"):
            if old not in (None, version):
                self.client.set_registered_model_alias(name, PREVIOUS, old)
            if old != version:
                self.client.set_registered_model_alias(name, CHAMPION, version)
            if aliases.get(CHALLENGER) == version:
                self.client.delete_registered_model_alias(name, CHALLENGER)

    def _ensure_model(self, name: str) -> None:
        try:
            self.client.create_registered_model(name)
        except Exception as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise


@contextlib.contextmanager
def _answering(what: str) -> Iterator[None]:
    """Sorts MLflow's errors by whose move it is, without the credentials that its messages may quote."""
    try:
        yield
    except Exception as error:
        message = f"MLflow, {what}: {events.without_credentials(error)[:500]}"
        if error_code(error) in REFUSALS:
            raise InputError(message) from None
        if problem := locked(error):
            raise InputError(f"MLflow, {what}: {problem}") from None
        raise TransientError(message) from None


def make_servable(directory: Path) -> None:
    """Add to a package what MLflow needs to serve it, on a machine that has nothing of this project.

    That is `MLmodel`, the packages serving needs, an input example, and in `code/` our own modules that
    `tinybert.serving` imports. Nothing of it is pickled, and the same directory always gets the same files.
    """
    from mlflow.models import Model
    from mlflow.pyfunc import add_to_model

    released = Released.read(directory)
    _copy_code(directory / "code")
    _write_requirements(directory, released)
    content = {name: entry for name, entry in list_files(directory).items() if name not in DESCRIPTION}
    model = Model(
        model_uuid=files_digest(content)[:32],
        utc_time_created="2000-01-01 00:00:00",
        model_size_bytes=sum(entry.size for entry in content.values()),
        signature=_signature(released),
        saved_input_example_info=_write_example(directory, released),
    )
    environment = {"conda_env": "conda.yaml", "python_env": "python_env.yaml"}
    add_to_model(model, loader_module=LOADER, data=".", code="code", **environment)
    model.save(directory / "MLmodel")


def _copy_code(target: Path) -> None:
    """The modules that serving imports, and the packages they are in."""
    modules = source_modules(LOADER, without=())
    packages = {name.rpartition(".")[0] for name in modules if "." in name}
    for name in sorted({*modules, *packages}):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        path, place = Path(str(spec.origin)), target.joinpath(*name.split("."))
        place = place / path.name if path.name == "__init__.py" else place.with_suffix(".py")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _write_requirements(directory: Path, released: Released) -> None:
    """What serving imports, in the versions installed here, as MLflow's environment managers want to be told."""
    more = ["onnxruntime"] if released.variants.keys() - {TORCH} else []
    more += ["seqeval"] if released.kind == "token_classification" else []
    python = platform.python_version()
    (directory / "requirements.txt").write_text("".join(_pinned(name) + "\n" for name in sorted([*SERVED_BY, *more])))
    (directory / "python_env.yaml").write_text(f"python: {python}\ndependencies:\n- -r requirements.txt\n")
    (directory / "conda.yaml").write_text(
        f"channels:\n- conda-forge\ndependencies:\n- python={python}\n- pip\n- pip:\n  - -r requirements.txt\n"
    )


def _pinned(package: str) -> str:
    """The installed version, without what says for which device it was built: no registry of packages knows that."""
    return f"{package}=={importlib.metadata.version(package).partition('+')[0]}"


def _write_example(directory: Path, released: Released) -> dict[str, str]:
    """Input as `predict` and as the server take it; what MLmodel says about the files."""
    text, pair = EXAMPLES[released.kind]
    example = [[text, pair]] if released.pair else [text]
    (directory / "input_example.json").write_text(json.dumps(example) + "\n")
    (directory / "serving_input_example.json").write_text(json.dumps({"inputs": example}) + "\n")
    files = {"artifact_path": "input_example.json", "serving_input_path": "serving_input_example.json"}
    return {"type": "json_object", **files}


def _signature(released: Released) -> Any:
    """One column, or two, of anything, without names.

    Of columns declared as text MLflow would make text of everything: of the number 5 the text 5, of nothing the text
    None. Declared with names, they would not take a plain list. So each value reaches `tinybert.serving` as it was
    sent, and what is no text gets an answer that says so.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Object, Property, Schema

    text, whole, share = DataType.string, DataType.long, DataType.double
    entity = {"label": text, "text": text, "start": whole, "end": whole, "score": share}
    types = {
        **dict.fromkeys(("label", "answer", ERROR), text),
        "labels": Array(text),
        "entities": Array(Object([Property(name, kind) for name, kind in entity.items()])),
        **dict.fromkeys(("start", "end"), whole),
        TRUNCATED: DataType.boolean,
    }
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType())] * (2 if released.pair else 1)),
        outputs=Schema([ColSpec(types.get(name, share), name, required=False) for name in released.columns]),
    )
