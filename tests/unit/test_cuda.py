"""On a GPU: the real learners train there, go on after a kill, and lose what they lose on the CPU."""

import gc

import pytest
import torch
from torch import nn

from tests.unit.line import fit
from tests.unit.tiny import LEARNERS, USED, WORDS, Taught, batch_for
from tinybert import training
from tinybert.allocator import give_back_gpu_memory
from tinybert.gradients import SliceSize, out_of_memory
from tinybert.used_rows import Shrunk, UsedRows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

FIELDS = {"epochs": 2, "accumulation": 2, "checkpoint_every": 3, "weight_decay": 0.5, "learning_rate": 1e-2}
NEARLY = {"rtol": 1e-3, "atol": 1e-4}


class Killed(BaseException):
    """What SIGKILL is to the loop: nothing of it runs afterwards."""


def trained(name, directory, **fields):
    """A learner that was trained without dropout, and the points of its curves."""
    learner, curve = LEARNERS[name](), []
    told = {"on_metrics": lambda metrics, step: curve.append((step, metrics))}
    fit(learner, Taught(), directory, **FIELDS, dropout=0.0, **told, **fields)
    return learner, curve


@pytest.mark.parametrize("name", LEARNERS)
def test_one_pass_has_the_losses_and_gradients_of_the_cpu(name):
    rows, found = Taught(), []
    for where in ("cpu", "cuda"):
        learner = LEARNERS[name]().eval().to(where)
        batch = {key: tensor.to(where) for key, tensor in batch_for(learner, rows).items()}
        terms = learner(**batch)
        terms["loss"].backward()
        gradients = {key: p.grad.cpu() for key, p in learner.named_parameters() if p.grad is not None}
        found.append(({key: term.detach().cpu() for key, term in terms.items()}, gradients))
    torch.testing.assert_close(found[1], found[0], **NEARLY)


@pytest.mark.parametrize("name", LEARNERS)
def test_training_there_gives_the_losses_of_the_cpu(name, tmp_path, monkeypatch):
    """The learner is built on the CPU and is moved."""
    on_gpu, curve = trained(name, tmp_path / "gpu")
    assert {parameter.device.type for parameter in on_gpu.parameters()} == {"cuda"}
    for module in ("tinybert.training", "tinybert.trainer_arguments"):
        monkeypatch.setattr(f"{module}.device", lambda: torch.device("cpu"))
    on_cpu, expected = trained(name, tmp_path / "cpu")
    assert {parameter.device.type for parameter in on_cpu.parameters()} == {"cpu"}
    assert [step for step, _ in curve] == [step for step, _ in expected]
    for (_, metrics), (_, others) in zip(curve, expected, strict=True):
        assert metrics == pytest.approx(others, rel=1e-2)


@pytest.mark.parametrize("name", LEARNERS)
def test_bf16_loses_nearly_what_fp32_does(name, tmp_path):
    curves = [trained(name, tmp_path / precision, precision=precision)[1] for precision in ("fp32", "bf16")]
    for (_, metrics), (_, others) in zip(*curves, strict=True):
        assert metrics["loss"] == pytest.approx(others["loss"], rel=0.1)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_killed_learner_goes_on_there(name, tmp_path):
    """Sums come in any order there, so what was learnt is what an unbroken run learns but for rounding."""
    unbroken, killed, resumed = (LEARNERS[name]() for _ in range(3))
    passes = []

    def count(module, args, kwargs):
        passes.append(kwargs["input_ids"].device.type)
        if len(passes) == 2 * 5:
            raise Killed

    killed.register_forward_pre_hook(count, with_kwargs=True)
    fit(unbroken, Taught(), tmp_path / "unbroken", **FIELDS)
    with pytest.raises(Killed):
        fit(killed, Taught(), tmp_path / "broken", **FIELDS)
    assert set(passes) == {"cuda"}
    assert fit(resumed, Taught(), tmp_path / "broken", **FIELDS)["steps"] == 10
    found, expected = (
        learner.eval()(**{key: tensor.cuda() for key, tensor in batch_for(learner, Taught()).items()})
        for learner in (resumed, unbroken)
    )
    for key, term in expected.items():
        assert found[key].item() == pytest.approx(term.item(), rel=1e-2)


def test_a_table_of_used_rows_there_gives_what_the_whole_one_gives():
    learner = LEARNERS["logits"]().to("cuda")
    ids, before = torch.arange(WORDS, device="cuda"), learner.student.get_input_embeddings().weight.detach().clone()
    shrunk = Shrunk(learner, USED)
    table = learner.student.get_input_embeddings()
    assert isinstance(table, UsedRows)
    assert torch.equal(table.eval()(ids), before)
    with torch.no_grad():
        table.weight += 1
    shrunk.restore()
    after = learner.student.get_input_embeddings().weight
    assert after.device.type == "cuda"
    before[torch.from_numpy(USED).cuda()] += 1
    assert torch.equal(after, before)


def test_a_shrunk_table_follows_a_learner_from_the_cpu(tmp_path, monkeypatch):
    tables = []

    def noting(learner, *rest):
        shrunk = Shrunk(learner, *rest)
        tables.append(learner.student.get_input_embeddings())
        return shrunk

    monkeypatch.setattr(training, "Shrunk", noting)
    fit(LEARNERS["layers"](), Taught(), tmp_path, steps=1)
    (table,) = tables
    assert isinstance(table, UsedRows)
    assert {tensor.device.type for tensor in (table.weight, table._used_U, table._whole_VD)} == {"cuda"}


def test_its_lack_of_memory_is_recognised():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
    assert out_of_memory(raised.value)
    most = torch.cuda.get_device_properties(0).total_memory // 2**20

    def compute(rows):
        torch.empty(rows << 20, dtype=torch.uint8, device="cuda")
        return rows

    assert most // 8 <= SliceSize("test").fitting(compute, 4 * most, lambda: None) <= most


def test_memory_that_a_cycle_held_is_given_back():
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    gc.disable()
    try:
        held = nn.Linear(4096, 4096, device="cuda")
        held.itself = [held]
        del held
        assert torch.cuda.memory_reserved() >= before + 4 * 4096**2
        give_back_gpu_memory()
    finally:
        gc.enable()
    assert torch.cuda.memory_reserved() == before
