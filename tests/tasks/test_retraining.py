"""What a student is made from, and what follows for a run: which change is one, what is tried but once."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks import basis, policy
from tasks.basis import NO_MATTER, STAGES, Basis, renewed
from tasks.data import Sources
from tasks.registry import Registered
from tasks.retraining import decide
from tinybert import losses, stages
from tinybert.config import DistillConfig
from tinybert.form import PIN, merge, nested_form
from tinybert.refs import ModelRef, SourceRef, VectorsRef
from tinybert.retrain_config import RetrainConfig

FORM = {
    "name": "reviews",
    "data": {"source": "file:/rows"},
    "teacher": {"source": "file:/teacher"},
    "corpus": {"source": "file:/text"},
}
NOW = datetime(2026, 11, 22, 2, tzinfo=UTC)
WEIGHTS = "5" * 64


def form(**changes) -> DistillConfig:
    return DistillConfig.model_validate(merge(FORM, changes))


def ref(kind, digit, place="file:/somewhere"):
    return kind(uri=place, digest=digit * 64)


def found(**changes) -> Sources:
    sources = {"data": ref(SourceRef, "a"), "teacher": ref(ModelRef, "b"), "corpus": ref(SourceRef, "c")}
    return Sources(**sources | changes)


def made_from(config=None, sources=None, code="d" * 12) -> Basis:
    return Basis.of(config or form(), sources or found(), code)


def test_the_digests_are_short_and_come_back_from_the_tags():
    tags = made_from().tags
    assert set(tags) == {f"made_from.{name}" for name in ("data", "labels", "teacher", "corpus", "config", "code")}
    assert {len(digest) for digest in tags.values()} == {12}
    assert Basis.told(tags | {"verdict": "promote"}) == made_from()
    del tags["made_from.teacher"]
    assert Basis.told(tags) is None


@pytest.mark.parametrize(
    ("change", "aspects"),
    [
        ({"data": ref(SourceRef, "e")}, ["data"]),
        ({"validation": ref(SourceRef, "e")}, ["data"]),
        ({"test": ref(SourceRef, "e")}, ["data"]),
        ({"labels": ["bad", "good"]}, ["labels"]),
        ({"teacher": ref(ModelRef, "e")}, ["teacher"]),
        ({"corpus": ref(SourceRef, "e")}, ["corpus"]),
        ({"vectors": ref(VectorsRef, "e")}, ["corpus"]),
        ({"thesaurus": ref(SourceRef, "e")}, ["corpus"]),
        ({"translators": [ref(ModelRef, "e"), ref(ModelRef, "f")]}, ["corpus"]),
        ({"student": ref(ModelRef, "e")}, ["corpus"]),
        ({"data": ref(SourceRef, "a", "s3://bucket/rows")}, []),
    ],
)
def test_a_source_counts_by_its_content(change, aspects):
    changes = made_from(sources=found(**change)).since(made_from())
    assert [phrase.split()[0] for phrase in changes] == aspects


def test_rows_for_validation_are_not_rows_for_test():
    extra = ref(SourceRef, "e")
    assert made_from(sources=found(validation=extra)).data != made_from(sources=found(test=extra)).data


@pytest.mark.parametrize(
    ("change", "aspects"),
    [
        ({"logits": {"temperature": 2.0}}, ["config"]),
        ({"layers": {"optim": {"seed": 7}}}, ["config"]),
        ({"gate": {"margin": 0.02}}, ["config"]),
        ({"data": {"rows": 100}}, ["config"]),
        ({"data": {"labels": ["bad", "good"]}}, ["labels"]),
        ({"name": "other"}, []),
        ({"reason": "a whim"}, []),
        ({"launch": {"processes": 2}}, []),
        ({"publish": {"name": "other"}}, []),
        ({"data": {"source": "s3://bucket/rows"}}, []),
        ({"teacher": {"source": "file:/moved"}}, []),
        ({"augment": {"vectors": "file:/vectors"}}, []),
    ],
)
def test_a_field_counts_if_it_decides_what_is_computed(change, aspects):
    changes = made_from(form(**change)).since(made_from())
    assert [phrase.split()[0] for phrase in changes] == aspects


def test_every_field_that_names_a_source_counts_by_content():
    boxes = {name: nested_form(info.annotation) for name, info in DistillConfig.model_fields.items()}
    pinned = {
        (box, name)
        for box, kind in boxes.items()
        for name, info in (kind.model_fields if kind else {}).items()
        if any(getattr(constraint, "pattern", None) == PIN for constraint in info.metadata)
    }
    assert ("augment", "back_translator") in pinned
    assert pinned <= {(box, name) for box, names in NO_MATTER.items() if names is not True for name in names}


def test_the_stages_of_distill_are_all_but_those_of_other_flows():
    there = {path.stem for path in Path(stages.__file__).parent.glob("*.py")} - {"__init__"}
    assert there - set(STAGES) == {"score", "vocabulary"}
    assert set(STAGES) <= there


@pytest.fixture
def code():
    """The digest of the code, computed anew at each call."""
    yield lambda: (basis.code.cache_clear(), basis.code())[1]
    basis.code.cache_clear()


def test_an_edit_of_a_stages_code_changes_the_digest(code, tmp_path, monkeypatch):
    before, real = code(), basis.source_modules
    edited = tmp_path / "losses.py"
    edited.write_text(Path(losses.__file__).read_text() + "# edited\n")

    def with_edit(module, without):
        return {name: edited if name == "tinybert.losses" else path for name, path in real(module, without).items()}

    monkeypatch.setattr(basis, "source_modules", with_edit)
    assert code() != before


def test_the_digest_of_the_code_covers_all_that_any_stage_imports(code, monkeypatch):
    read, real = set(), basis.file_digest
    monkeypatch.setattr(basis, "file_digest", lambda path: (read.add(path), real(path))[1])
    code()
    for stage in ("layers", "augment", "package"):
        assert set(policy.source_modules(policy.stage_module(stage)).values()) <= read


def test_another_torch_changes_the_digest_and_another_build_of_it_does_not(code, monkeypatch):
    versions = dict.fromkeys(("transformers", "tokenizers"), "1.0")
    digests = []
    for torch in ("2.8.0", "2.8.0+cpu", "2.8.1"):
        monkeypatch.setattr(basis.importlib.metadata, "version", (versions | {"torch": torch}).__getitem__)
        digests.append(code())
    assert digests[0] == digests[1] != digests[2]


def version(made=None, days=3, verdict="promote", student="1", **more) -> dict[str, str]:
    """Tags of a version that was promoted some days ago; with days None it never was."""
    promoted = {} if days is None else {"promoted.at": datetime.fromordinal(NOW.toordinal() - days).isoformat() + "Z"}
    common = {"uri": "s3://bucket/model", "digest": WEIGHTS, "student.digest": student * 64, "verdict": verdict}
    return common | promoted | (made or made_from()).tags | more


def registered(*versions, champion="1") -> Registered:
    numbered = {str(number): tags for number, tags in enumerate(versions, start=1)}
    return Registered(name="reviews", versions=numbered, aliases={"champion": champion} if champion else {})


def decided(model, config=None, sources=None, code="d" * 12, **fields):
    return decide(RetrainConfig(distill=config or form(), **fields), sources or found(), model, code, NOW)


OTHER = {"data": ref(SourceRef, "e")}


def test_where_nothing_changed_nothing_is_run():
    plan = decided(registered(version()))
    assert (plan.decision, plan.changes, plan.run) == ("unchanged", [], None)
    assert plan.said == "nothing changed since version 1 of reviews (champion, 3 days old)"


def test_without_a_champion_there_is_reason_enough():
    for model in (registered(champion=None), registered(version(made_from(form(gate={"margin": 0.5}))), champion=None)):
        plan = decided(model)
        assert (plan.decision, plan.said) == ("retrained", "there is no champion yet")
        assert plan.run == form(reason="there is no champion yet")


def test_the_reason_of_a_run_names_what_changed():
    plan = decided(registered(version()), sources=found(**OTHER), code="e" * 12)
    old, new = made_from().data[:8], made_from(sources=found(**OTHER)).data[:8]
    assert plan.decision == "retrained"
    assert plan.run.reason == f"data changed: {old} -> {new}; code changed: dddddddd -> eeeeeeee"
    assert plan.run == form(reason=plan.run.reason)


def test_the_reason_fits_into_the_form_whatever_has_changed():
    sources = found(**OTHER, labels=["x"], vectors=ref(VectorsRef, "e"), teacher=ref(ModelRef, "f"))
    plan = decided(registered(version()), form(gate={"margin": 0.5}), sources, "e" * 12)
    assert len(plan.changes) == 6
    assert DistillConfig.model_validate(plan.run.model_dump()).reason.startswith("data changed; labels changed; ")
    forced = decided(registered(version()), sources=sources, force="f" * 180)
    assert DistillConfig.model_validate(forced.run.model_dump()).reason.startswith("forced")


@pytest.mark.parametrize(
    ("tags", "fate"),
    [
        ({"verdict": "reject", "days": None}, "rejected"),
        ({"days": 9}, "champion before"),
        ({"rollback.to": "1", "rollback.reason": "it is rude"}, "withdrawn as version 2 by a rollback (it is rude)"),
    ],
)
def test_what_was_tried_is_not_tried_again(tags, fate):
    sources = found(**OTHER)
    model = registered(version(), version(made_from(sources=sources), student="2", **tags))
    plan = decided(model, sources=sources)
    assert (plan.decision, plan.run) == ("tried", None)
    assert plan.said.startswith("data changed: ")
    assert plan.said.endswith(f"; but version 2 of reviews was made from the same, and {fate}")


def test_a_run_that_was_killed_or_overtaken_before_its_promotion_is_made_again():
    sources = found(**OTHER)
    model = registered(version(), version(made_from(sources=sources), days=None, student="2"))
    assert decided(model, sources=sources).decision == "retrained"


def test_a_champion_that_does_not_tell_is_a_reason():
    silent = {key: tag for key, tag in version().items() if not key.startswith("made_from")}
    assert decided(registered(silent)).said == "version 1 does not tell what it was made from"
    tried = registered(silent, version(days=None, verdict="reject", student="2"))
    assert decided(tried).decision == "tried"


def test_force_is_a_reason_whatever_was_tried():
    same = decided(registered(version()), force="a colleague asks for it")
    assert (same.decision, same.run.reason) == ("retrained", "forced: a colleague asks for it")
    tried = registered(version(), version(made_from(sources=found(**OTHER)), verdict="reject", days=None))
    assert decided(tried, sources=found(**OTHER), force="once more").run is not None


@pytest.mark.parametrize(("days", "decision"), [(30, "unchanged"), (31, "retrained")])
def test_an_old_champion_is_challenged_with_new_seeds(days, decision):
    plan = decided(registered(version(days=days)), max_age_days=30)
    assert plan.decision == decision
    if plan.run:
        assert plan.said == "the champion is 31 days old: new seeds"
        assert (plan.run.layers.optim.seed, plan.run.logits.optim.seed) == (43, 43)
        assert plan.run.model_copy(update={"reason": ""}) == form(
            layers={"optim": {"seed": 43}}, logits={"optim": {"seed": 43}}
        )


def test_each_champion_is_challenged_once_for_its_age():
    young = made_from(renewed(form(), "1"))
    lost = registered(version(days=31), version(young, verdict="reject", days=None, student="2"))
    assert decided(lost, max_age_days=30).decision == "tried"
    won = registered(version(days=31), version(young, days=1, student="2"), champion="2")
    assert decided(won, max_age_days=30).decision == "unchanged"
    old = registered(version(days=62), version(young, days=31, student="2"), champion="2")
    assert decided(old, max_age_days=30).run.layers.optim.seed == 44


def test_without_a_limit_no_age_is_a_reason():
    assert decided(registered(version(days=900))).decision == "unchanged"
    timeless = {key: tag for key, tag in version().items() if key != "promoted.at"}
    assert "of unknown age" in decided(registered(timeless), max_age_days=1).said
