"""The learner behind general distillation and intermediate task distillation: the teacher's states as target."""

from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tinybert.attention_kind import AttentionShape, Kind, attention_kind
from tinybert.config import MapConfig
from tinybert.errors import ModelError
from tinybert.gradients import graded
from tinybert.layer_map import layer_weights
from tinybert.learner import Learner
from tinybert.losses import attention_loss, hidden_loss, relation_loss
from tinybert.precision import halve_linears, use_bf16
from tinybert.progress import logger
from tinybert.states import StateCapture, States, model_inputs
from tinybert.teacher_states import TeacherStates, remembered_states, state_names

PROJECTIONS = "projections.safetensors"
"""Kept beside a distilled student so that a later stage continues with them; the export leaves them out."""


class Projections(nn.Module):
    """Maps student states to the teacher's width, by one matrix a layer or one for all; nothing where widths agree.

    The paper writes a matrix (W_h, W_e), the reference code a linear layer with bias; this is the matrix.
    """

    def __init__(self, student_width: int, teacher_width: int, layers: int, kind: str) -> None:
        super().__init__()
        self._shared = kind == "shared"
        count = 0 if student_width == teacher_width else 1 if self._shared else layers + 1
        self.matrices = nn.ModuleList(nn.Linear(student_width, teacher_width, bias=False) for _ in range(count))

    def forward(self, hidden_BLD: Tensor, layer: int) -> Tensor:
        """States of a student layer (0: embedding) in the teacher's width."""
        if not len(self.matrices):
            return hidden_BLD
        projected: Tensor = self.matrices[0 if self._shared else layer](hidden_BLD)
        return projected

    def begin(self, matrix_DS: Tensor | None) -> None:
        """Begin with the matrix that leads from student to teacher states, where the student was cut out of it."""
        if matrix_DS is not None:
            for linear in self.matrices:
                linear.load_state_dict({"weight": matrix_DS})

    def save(self, directory: Path) -> None:
        """Write the matrices, if there are any."""
        if len(self.matrices):
            safetensors.torch.save_file(self.state_dict(), directory / PROJECTIONS)

    def load(self, directory: Path) -> None:
        """Continue with the matrices an earlier stage left; where their number or shape is another, a line says so."""
        path = directory / PROJECTIONS
        if not len(self.matrices) or not path.is_file():
            return
        saved = safetensors.torch.load_file(path)
        found, wanted = ({name: tuple(m.shape) for name, m in own.items()} for own in (saved, self.state_dict()))
        if found == wanted:
            self.load_state_dict(saved)
            return
        logger.warning(
            "the student's projections begin anew: it brings %d of shape %s, and layer_map.projection and the widths "
            "ask for %d of shape %s",
            *(len(found), next(iter(found.values()), ()), len(wanted), next(iter(wanted.values()))),
        )


class StateLearner(Learner):
    """A student that learns a teacher's attention, hidden states and embeddings.

        L = w_a sum_m lambda_m L_attn(m, g(m)) + w_h sum_m lambda_m L_hidn(m, g(m)) + w_e L_embd

    L_attn compares scores, or relations of queries, keys and values (`tinybert.attention_kind`).

    Args:
        student: Encoder to train. Its pooler is frozen: no loss here reads it.
        teacher: Encoder to imitate, which is taken over (`tinybert.teacher_states`); or its config alone, where
            every batch brings the teacher's states.
        mapped: g(1..M), teacher layers from 1.
        config: Weights of the losses, kinds of attention and projection.
        precision: auto, bf16 or fp32: that of the autocast around `forward`, for which the teacher is prepared.

    Raises:
        ModelError: Attention scores are asked for and heads differ, or a model's attention cannot be captured.
        ConfigError: Relation heads or layer weights do not fit the models.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel | PretrainedConfig,
        mapped: list[int],
        config: MapConfig,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        taught_by = teacher if isinstance(teacher, PretrainedConfig) else teacher.config
        own, other = (AttentionShape(c.num_attention_heads, c.hidden_size) for c in (student.config, taught_by))
        self.attention = attention_kind(config, own, other)
        """What is learnt of the teacher's attention."""
        if self.attention.kind == "relations":
            logger.info(
                "layer_map.attention %s: the student has %d heads, the teacher %d; the student learns how queries, "
                "keys and values relate the tokens to each other, over %d relation heads",
                *(config.attention, own.heads, other.heads, self.attention.relation_heads),
            )
        self._layer_weights = layer_weights(config, len(mapped))
        self.student = student
        if getattr(student.base_model, "pooler", None) is not None:
            student.base_model.pooler.requires_grad_(False)
        self.projections = Projections(own.width, other.width, layers=len(mapped), kind=config.projection)
        self._config, self._mapped = config, mapped
        self._student_states = StateCapture(student, range(len(mapped) + 1), self.attention.kind)
        self._teacher: tuple[TeacherStates, ...] = ()  # a tuple keeps it out of parameters()
        if teacher is not taught_by:
            self._teacher = (TeacherStates(teacher, mapped, self.attention.kind),)
            if use_bf16(teacher.device, precision):
                halve_linears(self._teacher[0])

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The sums of losses, and "loss", their weighted sum.

        Where the batch carries the teacher's states as `TeacherStates` gives them, the teacher is not run.
        """
        losses = self._losses(batch, self._taught(batch))
        terms = {"embedding_loss": losses["hidden", 0], "hidden_loss": self._weigh(losses, "hidden")}
        if self.attention.kind != "hidden":
            terms["attention_loss"] = self._weigh(losses, self.attention.kind)
        weights = {
            "embedding_loss": self._config.embedding_weight,
            "hidden_loss": self._config.hidden_weight,
            "attention_loss": self._config.attention_weight,
        }
        return {"loss": _sum(weights[name] * term for name, term in terms.items()), **terms}

    def _taught(self, batch: dict[str, Tensor]) -> States:
        names = state_names(self.attention.kind)
        if all(name in batch for name in names):
            return remembered_states(batch, self._mapped, self.attention.kind)
        if not self._teacher:
            raise ModelError(
                f"the batch has {', '.join(batch)}, but not the teacher's states, {' and '.join(names)}, and there "
                "is no teacher to compute them; give StateLearner the teacher, or batches with its states"
            )
        return self._teacher[0].states(batch)

    def _losses(self, batch: dict[str, Tensor], taught: States) -> dict[tuple[Kind, int], Tensor]:
        """The loss of each state of the student, computed as soon as it is there.

        The teacher's are taken out as they are read, so at no time is more in memory than the losses to come will read.
        """
        losses: dict[tuple[Kind, int], Tensor] = {}
        mask_BL, teacher_layers = batch["attention_mask"], (0, *self._mapped)

        def compare(part: Kind, m: int, own: Tensor) -> None:
            other = getattr(taught, part).pop(teacher_layers[m])
            if part == "hidden":
                losses[part, m] = self._hidden_loss(own, other, mask_BL, m)
            else:
                losses[part, m] = self._attention_loss(own, other, mask_BL)

        with self._student_states.capturing(compare):
            self.student(**model_inputs(self.student, batch))
        return losses

    def _hidden_loss(self, student_BLD: Tensor, teacher_BLD: Tensor, mask_BL: Tensor, m: int) -> Tensor:
        return graded(lambda own: hidden_loss(own, teacher_BLD, mask_BL), self.projections(student_BLD, m))

    def _attention_loss(self, student: Tensor, teacher: Tensor, mask_BL: Tensor) -> Tensor:
        """Of scores (B, H, L, L) or relations (B, 3, L, D)."""
        if self.attention.kind == "scores":
            return graded(lambda own: attention_loss(own, teacher, mask_BL), student)
        heads = self.attention.relation_heads
        return graded(lambda own: relation_loss(own, teacher, mask_BL, heads), student)

    def _weigh(self, losses: dict[tuple[Kind, int], Tensor], part: Kind) -> Tensor:
        return _sum(weight * losses[part, m] for m, weight in enumerate(self._layer_weights, start=1))


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
