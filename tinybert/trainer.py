"""Hugging Face's Trainer, given our batches, our gradients and our evaluation.

It sees one batch a step and one epoch; which rows those are is the plan's business (`tinybert.batches`).
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from tinybert.allocator import keep_freed_memory
from tinybert.batches import Batch, Rows, StepBatches, StepsFrom, plan, step_seed
from tinybert.finite import FiniteCheck
from tinybert.gradients import SliceSize, batch_length, batch_rows, clip_gradients, slice_tokens, slices
from tinybert.interruption import InterruptedStepError, Interruption
from tinybert.learner import Learner, Validation
from tinybert.processes import agreed, process, processes, sum_gradients, summed
from tinybert.progress import logger
from tinybert.resume import STATE, WEIGHTS, continue_from, is_finished, last_checkpoint
from tinybert.states import train_with_own_attention
from tinybert.trainer_arguments import trainer_arguments
from tinybert.training_config import OptimConfig


class StageTrainer(Trainer):
    """The Trainer with the batches, the gradients, the evaluation and the weights file of a learner."""

    def __init__(
        self,
        what: str,
        learner: Learner,
        rows: Rows,
        optim: OptimConfig,
        resume: Path,
        validation: Validation | None,
        interruption: Interruption,
    ) -> None:
        self.batches = plan(rows, optim, least=processes())
        selection = validation.selection if validation else None
        shares = StepBatches(rows, self.batches, optim.seed, process(), processes())
        # The Trainer insists on an evaluation set where it evaluates; `evaluate` below does not read it.
        super().__init__(
            learner,
            trainer_arguments(optim, self.batches, resume, validation),
            train_dataset=shares,
            eval_dataset=shares if validation else None,
        )
        self._what, self._learner, self._optim, self._resume = what, learner, optim, resume
        self._validation, self._interruption = validation, interruption
        self._size = SliceSize(what, optim.accumulation, resume / "slices.json", slice_tokens(self.args.device))
        self._first = self.examples = self.tokens = 0
        self._saved = time.monotonic()
        self._told = self._due = torch.zeros(3)
        self._finite = FiniteCheck(what, resume)
        self._terms: list[dict[str, Tensor]] = []
        self._compiled = optim.compile
        if self.args.device.type == "cpu":
            train_with_own_attention(learner)
            keep_freed_memory()
        if optim.compile:
            learner.compile(dynamic=True)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Pace(self))
        if selection and selection.patience:
            self.add_callback(EarlyStoppingCallback(selection.patience))

    def run(self) -> TrainerState:
        """Train from the last checkpoint on, or from the start; nothing is left to do after the last step."""
        found = last_checkpoint(self._resume)
        if found is not None:
            state = continue_from(Path(found))
            self._first = state["global_step"]
            if is_finished(state, self.batches.steps):
                self._load_from_checkpoint(found)
                return TrainerState.load_from_json(str(Path(found) / STATE))
        try:
            self.train(resume_from_checkpoint=found)
        except InterruptedStepError:
            self._keep_last_step()
        return self.state

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """The batches that are still to do, in pinned memory for a GPU.

        Made in this process: a tokenised batch takes a millisecond, and workers forked from a process that runs
        Prefect end with an error.
        """
        return DataLoader(
            self.train_dataset,
            batch_size=None,
            sampler=StepsFrom(self._first, self.batches.steps),
            pin_memory=self.args.device.type == "cuda",
        )

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """Gradients of this step's batch, summed over slices and processes."""
        self.check_finite()
        model.train()
        self._due = self._told
        self._told = self._agreement(inputs)
        rows = batch_rows(inputs)
        compute = partial(self._tried, model, inputs)
        terms = self._size.fitting(compute, rows, model.zero_grad, batch_length(inputs))
        sum_gradients(self._learner.parameters())
        self._terms.append(terms)
        self._finite.computed(terms["loss"], inputs)
        self.examples += rows * processes()
        if "attention_mask" in inputs:
            self.tokens += int(inputs["attention_mask"].sum()) * processes()
        return terms["loss"] * processes()  # the Trainer takes the mean over processes

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        norm = clip_gradients(list(self._learner.parameters()), self.args.max_grad_norm)
        self._finite.clipped(norm)
        return norm

    def _agreement(self, batch: Batch) -> Tensor:
        """Items of all processes' shares, and how many processes want a checkpoint, or to stop."""
        overdue = time.monotonic() - self._saved > 60 * self._optim.checkpoint_minutes
        mine = [float(self._learner.items(batch)), float(overdue), float(self._interruption.asked)]
        return summed(torch.tensor(mine, device=self.args.device if processes() > 1 else "cpu"))

    def _tried(self, model: nn.Module, batch: Batch, rows: int) -> dict[str, Tensor]:
        """The gradients, without torch.compile from its first failure on."""
        try:
            return self._gradients(model, batch, rows)
        except TorchDynamoException as error:
            if not self._compiled:
                raise
            reason = str(error).strip().partition("\n")[0]
            logger.warning("%s  torch.compile failed, going on without it: %s", self._what, reason)
        self._compiled = False
        self._learner._compiled_call_impl = None
        model.zero_grad()
        return self._gradients(model, batch, rows)

    def _gradients(self, model: nn.Module, batch: Batch, rows: int) -> dict[str, Tensor]:
        """Add up the gradients of the batch's slices; gives this process' part of the loss terms.

        The random numbers of a step follow from seed, step and process: neither a resumption nor an evaluation
        changes them.
        """
        torch.manual_seed(step_seed(self._optim.seed, self.state.global_step, process()))
        sums: dict[str, Tensor] = {}
        with self.accelerator.no_sync(model):
            for part in slices(batch, rows):
                self._check_asked()
                share = self._learner.items(part) / self._told[0].clamp(min=1)  # 0 where no word of a batch is scored
                terms = model(**{name: t.to(self.args.device, non_blocking=True) for name, t in part.items()})
                self.accelerator.backward(terms["loss"] * share)
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0.0) + term.detach() * share
        return sums

    def _check_asked(self) -> None:
        """Leave in the middle of a step, for one may take longer than whoever sent the signal waits.

        Several processes leave together, after a step.
        """
        if processes() == 1:
            self._interruption.check()

    def _keep_last_step(self) -> None:
        """A checkpoint of the last whole step, unless it has one; what was computed of the next is dropped."""
        step = self.state.global_step
        if step and agreed(last_checkpoint(self._resume) != str(self._resume / f"checkpoint-{step}")):
            self._save_checkpoint(self._learner, None)

    def check_finite(self) -> None:
        """Raise QualityError where the latest step's loss or gradient is no number."""
        self._finite.check(self.state.global_step)

    def mean_terms(self) -> dict[str, float]:
        """Means of the loss terms, "loss" left out, over the steps since the last call and all processes."""
        self.check_finite()
        names = [name for name in self._terms[0] if name != "loss"] if self._terms else []
        means = {name: summed(torch.stack([terms[name] for terms in self._terms]).mean()).item() for name in names}
        self._terms = []
        return means

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score the learner; the first process does, the others wait for its scores, or leave with it.

        Raises:
            InterruptedStepError: It was told to stop meanwhile; the checkpoint says that this evaluation is owed.
        """
        scores = agreed(self._scores() if process() == 0 else None)
        if scores is None:
            self._interruption.asked = True
            raise InterruptedStepError
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _scores(self) -> dict[str, float] | None:
        """None where somebody wants to stop: a validation may take longer than whoever sent the signal waits."""
        assert self._validation is not None
        try:
            return self._validation.score(self._interruption.check)
        except InterruptedStepError:
            return None

    def evaluate_owed(self) -> None:
        """The evaluation of the checkpoint's step, which an earlier call was told to stop in."""
        self._determine_best_metric(self.evaluate(), None)
        if self.control.should_training_stop:
            raise InterruptedStepError  # out of patience, before another step

    @property
    def due(self) -> tuple[bool, bool]:
        """Whether all processes agreed, a step ago, on a checkpoint now, and on stopping after it."""
        stop = self._interruption.asked if processes() == 1 else bool(self._due[2])
        return stop or bool(self._due[1]), stop

    def saved(self) -> None:
        """Start the time to the next checkpoint anew; where one process was told to stop, all leave as it does."""
        self._saved = time.monotonic()
        self._told[1] = 0  # agreed on before this checkpoint was written
        self._interruption.asked |= self.due[1]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # save_model keeps tied weights once, and load_model knows; of plain modules the Trainer can do neither.
        directory = Path(output_dir or self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(self._learner, str(directory / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        safetensors.torch.load_model(self._learner, Path(resume_from_checkpoint) / WEIGHTS)


class _Pace(TrainerCallback):
    """Evaluates and logs after the last step; checkpoints when it is time, or when somebody wants to stop."""

    def __init__(self, trainer: StageTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_evaluate:  # as the checkpoint has it; elsewhere evaluations come before
            self._trainer.evaluate_owed()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_evaluate = args.eval_strategy != "no"
        if control.should_evaluate or self._trainer.due[0]:
            control.should_save = True
        if control.should_save:
            self._trainer.check_finite()  # no checkpoint, and no best score, of weights that are no numbers

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.saved()
        if self._trainer.due[1]:
            control.should_training_stop = True
