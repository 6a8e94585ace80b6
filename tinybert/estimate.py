"""What a run will cost, from shapes and counts alone: steps, operations, bytes, memory. No torch here.

A training pass counts as three forward passes: one forward, two backward. All copies are taken to be kept, no stage to
stop early, and nothing to come out of the cache. docs/preflight.md says what is left out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pydantic import BaseModel, ConfigDict

from tinybert.config import DistillConfig
from tinybert.estimate_encoder import Encoder
from tinybert.layer_map import map_layers
from tinybert.training_config import OptimConfig, SelectionConfig

GIGABYTE = 1e9
TRAINED = 3
"""Forward passes that a training pass is worth."""
TRAINING_BYTES = 16
"""Of each trained parameter: weight, gradient and Adam's two means, four bytes each."""
CHECKPOINTS = 2
"""Kept at a time, with weights and Adam's means."""
LIBRARIES = 0.6 * GIGABYTE
"""Memory of a process before any model is loaded: torch, transformers, datasets."""
ELIGIBLE = 0.5
"""Share of tokens that augmentation replaces, taken: words of one piece that are no stop words."""
MASKED_SHARE = 0.15
"""Of tokens masked together in a grouped pass."""


class Amounts(BaseModel):
    """How much there is of everything that stages go through."""

    model_config = ConfigDict(frozen=True)

    train: int
    """Rows."""
    validation: int
    test: int
    tokens: float
    """Of a feature, in the mean."""
    characters: float = 100.0
    """Of a row, in the mean."""
    features: float = 1.0
    """Of a row: more than one where long texts are read in windows."""
    outputs: int = 2
    """Of a model with a head for the task."""
    per_token: bool = False
    """Each token has its own answer."""
    copies: int = 0
    """Augmented copies of a row, all recipes together."""
    sequences: int = 0
    """Of the packed corpus."""
    state_bytes: float = 0.0
    """Of the teacher's states for a feature, where they are wanted."""
    exact: bool = True
    """Counted, not estimated from a part."""


class StageCost(BaseModel):
    """What one stage will cost."""

    model_config = ConfigDict(frozen=True)

    name: str
    examples: int = 0
    """Rows, features or sequences that go through a model, all epochs together."""
    tokens: int = 0
    steps: int = 0
    """Optimizer steps."""
    flops: float = 0.0
    gigabytes: float = 0.0
    """Written and kept."""
    scratch_gigabytes: float = 0.0
    """Written while it runs: checkpoints."""
    memory_gigabytes: float = 0.0
    least_gigabytes: float = 0.0
    """The same with the batch cut into single rows, as a stage does by itself where memory runs out."""

    def hours(self, flops_per_second: float) -> float:
        """How long it takes at a speed."""
        return self.flops / flops_per_second / 3600


def steps_of(rows: int, tokens: float, optim: OptimConfig) -> tuple[int, int]:
    """Optimizer steps over rows of so many tokens, and the rows that go through in all."""
    size = optim.batch_size if optim.batch_tokens is None else max(1, int(optim.batch_tokens / tokens))
    steps = optim.epochs * max(1, math.ceil(rows / size))
    steps = min(steps, optim.steps or steps)
    return steps, min(steps * size, optim.epochs * rows)


def estimate(
    config: DistillConfig, teacher: Encoder, student: Encoder, amounts: Amounts, width: int, most: int
) -> list[StageCost]:
    """The stages a run of this form has, in their order, with what each costs.

    Args:
        config: Whose stages.
        teacher: Its shape.
        student: Its shape.
        amounts: Rows, tokens, copies, sequences.
        width: Bytes of a number in activations: 2 in bf16, else 4.
        most: Tokens that are trained on together, as `tinybert.gradients.slice_tokens` has it.
    """
    return list(_Run(config, teacher, student, amounts, width, most).stages())


@dataclass(frozen=True)
class _Run:
    config: DistillConfig
    teacher: Encoder
    student: Encoder
    amounts: Amounts
    width: int
    most: int

    def stages(self) -> Iterator[StageCost]:
        config, given = self.config, self.amounts
        rows_gb = (given.train + given.validation + given.test) * given.characters / GIGABYTE
        copies_gb = given.train * (1 + given.copies) * given.characters / GIGABYTE
        yield StageCost(name="prepare", gigabytes=rows_gb)
        if config.needs_corpus:
            tokens = given.sequences * config.corpus.length
            yield StageCost(name="corpus", examples=given.sequences, tokens=tokens, gigabytes=4 * tokens / GIGABYTE)
        if config.mlm.enabled:
            yield self._mlm()
        if not config.teacher.fine_tuned:
            yield self._supervised("fine_tune", self.teacher, config.fine_tune.optim, config.fine_tune.selection)
        if config.student.source is None:
            yield self._general()
        if config.augment.enabled:
            yield self._augment(copies_gb)
            yield StageCost(name="gather", gigabytes=rows_gb + copies_gb)
        yield self._targets()
        if config.augment.enabled:
            yield StageCost(name="screen", gigabytes=rows_gb + copies_gb)
        if config.layers.enabled:
            yield self._layers()
        box = config.logits
        yield (logits := self._supervised("logits", self.student, box.optim, box.selection, self._learnt_from))
        yield StageCost(name="export", gigabytes=self._exported_gb)
        if config.baseline.enabled:
            yield self._baseline(logits)
        yield self._evaluate()
        yield StageCost(name="gate")
        yield StageCost(name="package", gigabytes=self._exported_gb)

    # Sizes ------------------------------------------------------------------------------------------------------------

    @cached_property
    def _mapped(self) -> list[int]:
        return map_layers(self.config.layer_map, self.student.layers, self.teacher.layers)

    @cached_property
    def _features(self) -> int:
        """Of the training rows alone."""
        return round(self.amounts.train * self.amounts.features)

    @cached_property
    def _with_copies(self) -> int:
        return self._features * (1 + self.amounts.copies if self.config.augment.enabled else 1)

    @cached_property
    def _learnt_from(self) -> int:
        """Features of the prediction phase."""
        return self._with_copies if self.config.predictions_from_copies else self._features

    @cached_property
    def _asked(self) -> float | None:
        """Tokens whose answers a head reads."""
        return None if self.amounts.per_token else 1

    @cached_property
    def _states_gb(self) -> float:
        """Of the teacher's states, 0 where they are not kept."""
        found = self._with_copies * self.amounts.state_bytes / GIGABYTE
        return found if self.config.layers.enabled and found <= self.config.targets.states_gb else 0.0

    @property
    def _exported_gb(self) -> float:
        """Weights of four bytes, as they are and as ONNX, and of one byte."""
        export = self.config.export
        return self.student.parameters * (4 + 4 * export.onnx + export.int8) / GIGABYTE

    # Stages -----------------------------------------------------------------------------------------------------------

    def _trained(
        self, name: str, optim: OptimConfig, rows: int, tokens: float, longest: int, model: Encoder, flops: float
    ) -> StageCost:
        """A stage that trains `model`; `flops` are those of a row, backward pass and all."""
        steps, examples = steps_of(rows, tokens, optim)
        together = optim.batch_size if optim.batch_tokens is None else max(1, optim.batch_tokens // longest)
        together = math.ceil(together / (optim.accumulation * self.config.launch.processes))
        fixed, row = TRAINING_BYTES * model.parameters + LIBRARIES, model.activations(longest, self.width)
        return StageCost(
            name=name,
            examples=examples,
            tokens=round(examples * tokens),
            steps=steps,
            flops=examples * flops,
            gigabytes=4 * model.parameters / GIGABYTE,
            scratch_gigabytes=CHECKPOINTS * 12 * model.parameters / GIGABYTE,
            memory_gigabytes=(fixed + min(together, max(1, self.most // longest)) * row) / GIGABYTE,
            least_gigabytes=(fixed + row) / GIGABYTE,
        )

    def _mlm(self) -> StageCost:
        box, length, d = self.config.mlm, self.config.corpus.length, self.teacher.hidden
        head = 2 * box.masked * length * (d * d + d * self.teacher.vocabulary)
        flops = TRAINED * (self.teacher.forward(length) + head)
        return self._trained("mlm", box.optim, self.amounts.sequences, length, length, self.teacher, flops)

    def _supervised(
        self, name: str, model: Encoder, optim: OptimConfig, selection: SelectionConfig, rows: int | None = None
    ) -> StageCost:
        """Training on answers, scored on the validation rows now and then."""
        tokens, longest = self.amounts.tokens, self.config.data.max_length
        rows = self._features if rows is None else rows
        forward = model.forward(tokens, self._asked)
        found = self._trained(name, optim, rows, tokens, longest, model, TRAINED * forward)
        epochs = found.examples / max(1, rows)
        scored = epochs * selection.evaluations_per_epoch * self.amounts.validation * self.amounts.features
        return found.model_copy(update={"flops": found.flops + scored * model.forward(tokens)})

    def _imitating(
        self, name: str, optim: OptimConfig, rows: int, tokens: float, longest: int, asked: bool
    ) -> StageCost:
        """Training on the teacher's states, which are computed beside where `asked`."""
        taught = self.teacher.model_copy(update={"layers": self._mapped[-1]})
        own, other = self.student.hidden, self.teacher.hidden
        projections = 2 * tokens * own * other * (self.student.layers + 1) if own != other else 0
        flops = TRAINED * (self.student.forward(tokens) + projections) + asked * taught.forward(tokens)
        found = self._trained(name, optim, rows, tokens, longest, self.student, flops)
        held = asked * self.width * taught.parameters / GIGABYTE
        memory = {"memory_gigabytes": found.memory_gigabytes + held, "least_gigabytes": found.least_gigabytes + held}
        return found.model_copy(update=memory)

    def _general(self) -> StageCost:
        if not self.config.general_is_run:
            return StageCost(name="general", gigabytes=4 * self.student.parameters / GIGABYTE)
        length = self.config.corpus.length
        return self._imitating("general", self.config.general.optim, self.amounts.sequences, length, length, asked=True)

    def _layers(self) -> StageCost:
        optim, tokens, longest = self.config.layers.optim, self.amounts.tokens, self.config.data.max_length
        return self._imitating("layers", optim, self._with_copies, tokens, longest, asked=not self._states_gb)

    def _augment(self, copies_gb: float) -> StageCost:
        box, given, d = self.config.augment, self.amounts, self.teacher.hidden
        words, rows = ELIGIBLE * given.tokens, given.train if box.copies != 0 else 0
        together = max(1, int(MASKED_SHARE * given.tokens))
        passes = {"each": words, "grouped": max(math.ceil(words / together), min(2, words)), "none": 1}[box.masking]
        tokens = given.tokens * (2 if box.masking == "each" else 1)
        head = 2 * words * (d * d + d * self.teacher.vocabulary)
        flops = rows * (passes * self.teacher.forward(tokens, words / max(1, passes)) + head)
        examples = round(rows * passes)
        return self._asking("augment", examples, tokens, flops, box.batch_tokens, copies_gb)

    def _targets(self) -> StageCost:
        config, given = self.config, self.amounts
        judged = config.copies_are_judged or config.predictions_from_copies or given.state_bytes > 0
        rows = self._with_copies if judged else self._features
        flops = self.teacher.forward(given.tokens, self._asked)
        flops += self.teacher.forward(given.tokens) if self._states_gb else 0
        answers = 4 * given.outputs * (given.tokens if given.per_token else 1) + 20
        written = rows * answers / GIGABYTE + self._states_gb
        return self._asking("targets", rows, given.tokens, rows * flops, config.targets.batch_tokens, written)

    def _asking(
        self, name: str, examples: int, tokens: float, flops: float, together: int, written: float
    ) -> StageCost:
        """A stage that only asks the teacher, so many tokens at once."""
        busy = self.width * together * (4 * self.teacher.hidden + self.teacher.ffn)
        memory = (4 * self.teacher.parameters + busy + LIBRARIES) / GIGABYTE
        return StageCost(
            name=name,
            examples=examples,
            tokens=round(examples * tokens),
            flops=flops,
            gigabytes=written,
            memory_gigabytes=memory,
            least_gigabytes=memory,
        )

    def _baseline(self, logits: StageCost) -> StageCost:
        """As many steps as task distillation has."""
        steps = logits.steps + (self._layers().steps if self.config.layers.enabled else 0)
        optim = self.config.logits.optim.model_copy(update={"steps": steps, "epochs": steps})
        selection = self.config.logits.selection
        return self._supervised("baseline", self.student, optim, selection)

    def _evaluate(self) -> StageCost:
        tokens, rows = self.amounts.tokens, round(self.amounts.test * self.amounts.features)
        variants = 1 + self.config.export.onnx + self.config.export.int8 + self.config.baseline.enabled
        flops = rows * (self.teacher.forward(tokens) + variants * self.student.forward(tokens))
        return StageCost(name="evaluate", examples=rows, tokens=round(rows * tokens), flops=flops)
