"""The learner behind general distillation and intermediate task distillation: the teacher's states as target."""

from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinybert.config import MapConfig
from tinybert.errors import ModelError
from tinybert.losses import attention_loss, hidden_loss
from tinybert.states import StateCapture, States
from tinybert.training import Learner

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

    def save(self, directory: Path) -> None:
        """Write the matrices, if there are any."""
        if len(self.matrices):
            safetensors.torch.save_file(self.state_dict(), directory / PROJECTIONS)

    def load(self, directory: Path) -> None:
        """Continue with the matrices an earlier stage left, where it left any of this shape."""
        path = directory / PROJECTIONS
        if len(self.matrices) and path.is_file():
            saved = safetensors.torch.load_file(path)
            own = self.state_dict()
            if {k: v.shape for k, v in saved.items()} == {k: v.shape for k, v in own.items()}:
                self.load_state_dict(saved)


class StateLearner(Learner):
    """A student that learns a teacher's attention scores, hidden states and embeddings.

        L = w_a sum_m L_attn(m, g(m)) + w_h sum_m L_hidn(m, g(m)) + w_e L_embd

    Args:
        student: Encoder to train.
        teacher: Encoder to imitate; it stays in eval mode and gets no gradients.
        mapped: g(1..M), teacher layers from 1.
        config: Weights of the losses, kind of projection.

    Raises:
        ModelError: Heads differ while the attention loss has weight.
    """

    def __init__(
        self, student: PreTrainedModel, teacher: PreTrainedModel, mapped: list[int], config: MapConfig
    ) -> None:
        super().__init__()
        heads = student.config.num_attention_heads, teacher.config.num_attention_heads
        if config.attention_weight and heads[0] != heads[1]:
            raise ModelError(
                f"student.heads: found {heads[0]}; the attention loss needs as many as the teacher has, {heads[1]} "
                "(or set layer_map.attention_weight to 0)"
            )
        self.student = student
        widths = student.config.hidden_size, teacher.config.hidden_size
        self.projections = Projections(*widths, layers=len(mapped), kind=config.projection)
        self._config = config
        self._mapped = mapped
        self._teacher = (teacher.eval().requires_grad_(False),)  # a tuple keeps it out of parameters()
        self._student_states = StateCapture(student, range(len(mapped) + 1))
        self._teacher_states = StateCapture(teacher, [0, *mapped])

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The three sums of losses, and "loss", their weighted sum."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
        with self._student_states.capturing() as student:
            self.student(**inputs)
        with torch.no_grad(), self._teacher_states.capturing() as teacher:
            self._teacher[0].to(inputs["input_ids"].device)(**inputs)
        return self._losses(student, teacher, batch["attention_mask"])

    def _losses(self, student: States, teacher: States, mask_BL: Tensor) -> dict[str, Tensor]:
        pairs = list(enumerate(self._mapped, start=1))
        terms = {
            "embedding_loss": hidden_loss(self.projections(student.hidden[0], 0), teacher.hidden[0], mask_BL),
            "hidden_loss": self._sum(
                hidden_loss(self.projections(student.hidden[m], m), teacher.hidden[g], mask_BL) for m, g in pairs
            ),
        }
        if self._config.attention_weight:
            terms["attention_loss"] = self._sum(
                attention_loss(student.scores[m], teacher.scores[g], mask_BL) for m, g in pairs
            )
        config = self._config
        weights = {
            "embedding_loss": config.embedding_weight,
            "hidden_loss": config.hidden_weight,
            "attention_loss": config.attention_weight,
        }
        return {"loss": self._sum(weights[name] * term for name, term in terms.items()), **terms}

    @staticmethod
    def _sum(terms: Iterable[Tensor]) -> Tensor:
        return torch.stack(list(terms)).sum()
