"""The reference procedure of TinyBERT's own code, re-created from its description, to compare with.

Every sentence is padded to one length, everything is fp32, attention is eager and all layers hand over their scores
and states, the teacher runs at every step, and all pairs of positions enter the losses, padding included. Kinder
than the code it re-creates in two points: the teacher is in eval mode (there its dropout stays on), and the
optimizer is torch's (there a loop in Python).
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, BertConfig, BertModel
from transformers.masking_utils import eager_mask

from tinybert.precision import device

TEACHER = BertConfig()
STUDENT = BertConfig(hidden_size=312, num_hidden_layers=4, intermediate_size=1200)


def eager_with_scores(
    module: nn.Module,
    query_BHLd: Tensor,
    key_BHLd: Tensor,
    value_BHLd: Tensor,
    attention_mask: Tensor,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Attention as the reference has it: the scores it returns carry the mask."""
    scores_BHLL = query_BHLd @ key_BHLd.transpose(2, 3) * scaling + attention_mask
    weights_BHLL = F.dropout(scores_BHLL.softmax(dim=-1), dropout, module.training)
    return (weights_BHLL @ value_BHLd).transpose(1, 2).contiguous(), scores_BHLL


AttentionInterface.register("reference", eager_with_scores)
AttentionMaskInterface.register("reference", eager_mask)


class Reference:
    """Teacher, student, projection and optimizer of the reference, and its two kinds of step."""

    def __init__(self, length: int, classes: int = 2) -> None:
        torch.manual_seed(0)
        self.length = length
        # Copies, for a model writes into its config how it attends.
        self.teacher, self.student = BertModel(deepcopy(TEACHER)).eval(), BertModel(deepcopy(STUDENT)).train()
        for model in (self.teacher, self.student):
            model.to(device()).set_attn_implementation("reference")
        self.fit_dense = nn.Linear(STUDENT.hidden_size, TEACHER.hidden_size).to(device())
        self.teacher_head = nn.Linear(TEACHER.hidden_size, classes).to(device())
        self.head = nn.Linear(STUDENT.hidden_size, classes).to(device())
        trained = [*self.student.parameters(), *self.fit_dense.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(trained, lr=5e-5, weight_decay=0.01)

    def padded(self, rows: list[list[int]]) -> dict[str, Tensor]:
        """Token ids and mask, each (B, length), where the models are."""
        ids_BL = torch.zeros(len(rows), self.length, dtype=torch.long)
        mask_BL = torch.zeros_like(ids_BL)
        for place, row in enumerate(rows):
            ids_BL[place, : len(row)] = torch.tensor(row)
            mask_BL[place, : len(row)] = 1
        return {"input_ids": ids_BL.to(device()), "attention_mask": mask_BL.to(device())}

    def intermediate_step(self, rows: list[list[int]]) -> float:
        """One step on attention scores, hidden states and embeddings."""
        inputs = self.padded(rows)
        everything = {"output_attentions": True, "output_hidden_states": True}
        student = self.student(**inputs, **everything)
        with torch.no_grad():
            teacher = self.teacher(**inputs, **everything)
        per_layer = TEACHER.num_hidden_layers // STUDENT.num_hidden_layers
        taught = [teacher.attentions[(m + 1) * per_layer - 1] for m in range(STUDENT.num_hidden_layers)]
        states = [teacher.hidden_states[m * per_layer] for m in range(STUDENT.num_hidden_layers + 1)]
        loss = sum(
            F.mse_loss(_zeroed(own), _zeroed(other)) for own, other in zip(student.attentions, taught, strict=True)
        )
        loss = loss + sum(
            F.mse_loss(self.fit_dense(own), other) for own, other in zip(student.hidden_states, states, strict=True)
        )
        return self._update(loss)

    def prediction_step(self, rows: list[list[int]]) -> float:
        """One step on the teacher's predictions, which are computed anew."""
        inputs = self.padded(rows)
        with torch.no_grad():
            target = self.teacher_head(self.teacher(**inputs).pooler_output)
        logits = self.head(torch.relu(self.student(**inputs).pooler_output))
        return self._update(-(target.softmax(-1) * logits.log_softmax(-1)).mean())

    def _update(self, loss: Tensor) -> float:
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def _zeroed(scores_BHLL: Tensor) -> Tensor:
    """Scores with the masked ones at 0."""
    return torch.where(scores_BHLL <= -1e2, torch.zeros_like(scores_BHLL), scores_BHLL)
