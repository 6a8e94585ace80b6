"""What an encoder of a given shape costs: parameters, operations, memory for training. No torch here.

Operations are those of matrix products, a multiply-add being two. In formulas d is the width, f that of the
feed-forward part, L tokens of a row.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from tinybert.families import shape_fields


class Encoder(BaseModel):
    """Shape of an encoder configured as BERT is."""

    model_config = ConfigDict(frozen=True)

    layers: int
    hidden: int
    ffn: int
    heads: int
    vocabulary: int
    positions: int

    @classmethod
    def of(cls, model: dict[str, Any]) -> Self:
        """Out of a model's `config.json`."""
        shape = {name: model[field] for name, field in shape_fields(model.get("model_type", "")).items()}
        positions = model.get("max_position_embeddings", 512)
        return cls(**shape, vocabulary=model["vocab_size"], positions=positions)

    @property
    def parameters(self) -> int:
        """Those of a BERT of this shape with its pooler, without a head."""
        d, f = self.hidden, self.ffn
        layer = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
        return (self.vocabulary + self.positions + 2 + 2) * d + self.layers * layer + d * d + d

    def forward(self, tokens: float, asked: float | None = None) -> float:
        """Operations of a forward pass over one row.

        A layer computes queries, keys, values and attention of all tokens, 6 d^2 + 4 L d each, then what follows on
        the attention of those that go on, 2 d^2 + 4 d f (`tinybert.last_layer`).

        Args:
            tokens: L.
            asked: Tokens that the last layer goes on with, where a head reads no others. None: all.
        """
        d, last = self.hidden, tokens if asked is None else min(asked, tokens)
        going_on = (self.layers - 1) * tokens + last
        return self.layers * tokens * (6 * d * d + 4 * tokens * d) + going_on * (2 * d * d + 4 * d * self.ffn)

    def activations(self, tokens: float, width: int) -> float:
        """Bytes that training keeps for the backward pass of one row.

        As arXiv:2205.05198 counts them (equation 1, there for numbers of two bytes and f = 4 d), without fused kernels.

        Args:
            tokens: L.
            width: Bytes of a number, 2 or 4; those of dropout masks have one.
        """
        linear = (8 * width + 2) * self.hidden + 2 * width * self.ffn
        return self.layers * tokens * (linear + (2 * width + 1) * self.heads * tokens)
