"""Task distillation in two processes of a launcher, each of which pads its share of the rows, ends as in one."""

import pytest
import torch
from safetensors.torch import load_file

from tasks import launch
from tests.unit.kind_data import NAMES, tokenizer_of, write_encoder, write_kind
from tinybert.config import LayersConfig, LogitsConfig, MapConfig, TargetsConfig
from tinybert.models import load_model, save
from tinybert.stages import targets
from tinybert.training_config import LaunchConfig, OptimConfig

OPTIM = OptimConfig(epochs=2, batch_size=8, learning_rate=1e-3, dropout=0.0, precision="fp32")


def nothing(metrics, step):
    """No curves are wanted."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Of `layers` and `logits`: tagged rows, whose losses count words, in batches of 8, 8 and 5."""
    root = tmp_path_factory.mktemp("tags")
    task = write_kind(root / "data", "token_classification", rows=21, held_out=8)
    encoder, answers = write_encoder(root / "encoder"), root / "targets"
    save(load_model(encoder, task.kind, NAMES[task.kind.name]), tokenizer_of(encoder), root / "teacher", 24)
    write_encoder(root / "student", seed=1, hidden=16, layers=1)
    answers.mkdir()
    shared = {"data": root / "data", "teacher": root / "teacher"}
    targets.run(**shared, config=TargetsConfig(), out=answers, on_metrics=nothing, precision="fp32")
    shared["student"] = root / "student"
    return {
        "layers": {**shared, "layer_map": MapConfig(), "config": LayersConfig(optim=OPTIM)},
        "logits": {**shared, "targets": answers, "config": LogitsConfig(hard_weight=0.3, optim=OPTIM)},
    }


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["layers", "logits"])
def test_two_processes_distil_what_one_distils(inputs, tmp_path, stage):
    found = {}
    for processes in (2, 1):
        out = tmp_path / str(processes) / "out"
        out.mkdir(parents=True)
        how = {**inputs[stage], "launch": LaunchConfig(processes=processes)}
        metrics = launch.compute(f"tinybert.stages.{stage}", "key", how, out, nothing)
        assert metrics["steps"] == 6
        found[processes] = metrics["loss"], load_file(out / "model.safetensors")
    begun = load_file(inputs[stage]["student"] / "model.safetensors")
    (loss, two), (expected, one) = found[2], found[1]
    assert loss == pytest.approx(expected, rel=1e-5)
    assert two.keys() == one.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)
    encoder = next(name for name in one if name.endswith("layer.0.output.dense.weight"))
    assert (one[encoder] - begun[encoder.removeprefix("bert.")]).abs().max() > 1e-3
