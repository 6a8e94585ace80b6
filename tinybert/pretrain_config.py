"""The form of `flows/pretrain.py`: a teacher of one's own, from a corpus and nothing else."""

from typing import Self

from pydantic import Field, model_validator

from tinybert.config import CorpusConfig, MlmConfig
from tinybert.form import PIN, Form
from tinybert.training_config import LaunchConfig, OptimConfig


class VocabularyConfig(Form):
    """The word pieces that text is cut into."""

    source: str | None = Field(None, pattern=PIN)
    """An existing model whose tokenizer is taken. Empty: a WordPiece vocabulary is learnt from the corpus."""
    size: int = Field(30_000, ge=100, le=1_000_000)
    """Pieces at most. More cut words less often, and make a larger embedding."""
    min_frequency: int = Field(2, ge=1)
    """Pieces that occur less often are not learnt."""
    lowercase: bool = True
    """Upper and lower case are one; accents are taken off. False for languages and tasks in which they matter."""


class EncoderConfig(Form):
    """Shape of the encoder; the default is BERT-base."""

    layers: int = Field(12, ge=1, le=48)
    """Transformer layers."""
    hidden: int = Field(768, ge=2, le=8192)
    """Width of the hidden states; a multiple of heads."""
    ffn: int = Field(3072, ge=1, le=65536)
    """Width inside the feed-forward part."""
    heads: int = Field(12, ge=1, le=128)
    """Attention heads."""
    positions: int = Field(512, ge=8, le=8192)
    """Tokens it can read at most; what lies beyond corpus.length is never trained."""
    seed: int = Field(42, ge=0, le=2**31 - 1)
    """Of the random weights."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}; choose one that is")
        return self


class PretrainConfig(Form):
    """Everything one pretraining run needs to know. Only a name and the corpus are required."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Name of the run."""
    corpus: CorpusConfig
    """Plain text."""
    vocabulary: VocabularyConfig = VocabularyConfig()
    """Word pieces."""
    encoder: EncoderConfig = EncoderConfig()
    """Shape."""
    mlm: MlmConfig = MlmConfig(enabled=True, optim=OptimConfig(epochs=10, batch_size=256, learning_rate=1e-4))
    """Masked language modelling."""
    launch: LaunchConfig = LaunchConfig()
    """Processes and machines of the training."""

    @model_validator(mode="after")
    def _boxes_agree(self) -> Self:
        if self.corpus.source is None:
            raise ValueError("corpus.source is empty; name a corpus")
        if self.corpus.length > self.encoder.positions:
            raise ValueError(
                f"corpus.length is {self.corpus.length}, but encoder.positions is {self.encoder.positions}; "
                "a sequence must fit into the positions"
            )
        if self.mlm.next_sentence != self.corpus.pairs:
            raise ValueError(
                f"mlm.next_sentence is {self.mlm.next_sentence} but corpus.pairs is {self.corpus.pairs}; "
                "set both or neither"
            )
        return self
