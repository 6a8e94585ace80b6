"""The boxes of the form that say how a stage trains: optimization, choice of the checkpoint, processes."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tinybert.form import Form


class OptimConfig(Form):
    """How one stage trains."""

    epochs: int = Field(3, ge=1, le=1000)
    """Passes over the training rows."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps at most; the run ends at whichever comes first, epochs or steps. Empty: epochs alone."""
    batch_size: int = Field(32, ge=1, le=4096)
    """Rows (or packed sequences) per optimizer step, over all processes. More need more memory and fewer steps."""
    batch_tokens: int | None = Field(None, ge=16)
    """Tokens per optimizer step at most, padding included: short rows then come many to a batch. Empty: batch_size."""
    accumulation: int = Field(1, ge=1, le=1024)
    """Slices a batch is computed in: same gradient and less memory. CPUs, and GPUs out of memory, slice more."""
    learning_rate: float = Field(5e-5, gt=0, le=1)
    """Peak learning rate of AdamW, reached after the warm-up, then falling to 0 in a straight line."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of all steps over which the learning rate rises."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    """AdamW's weight decay; biases and layer norms are exempt."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients longer than this are scaled down to it."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Share of activations dropped while training. Empty: the model's own, 0.1 for BERT; 0 saves a tenth on CPUs."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 autocast, or plain fp32. auto: bf16 where the hardware multiplies it natively."""
    compile: bool = False
    """torch.compile: minutes at the start, faster steps on GPUs. Where it fails, a warning, and training goes on."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between the checkpoints a killed run resumes from; every evaluation writes one too."""
    checkpoint_minutes: float = Field(10.0, gt=0)
    """Minutes after which a checkpoint is written in any case."""
    seed: int = Field(42, ge=0, le=2**31 - 1)
    """Order of rows, dropout and new weights follow from it."""

    @model_validator(mode="after")
    def _slices_divide(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"accumulation {self.accumulation} does not divide batch_size {self.batch_size}; choose one that does"
            )
        return self


class SelectionConfig(Form):
    """How the best checkpoint of a stage is chosen: by the task's score (`data.metric`) on the validation split."""

    evaluations_per_epoch: int = Field(1, ge=1, le=100)
    """More evaluations find the best point more exactly and cost time."""
    patience: int | None = Field(None, ge=1)
    """Evaluations without improvement after which training stops. Empty: never early."""


class LaunchConfig(Form):
    """Processes and machines of the training stages. The same batches are trained on, so the result is the same."""

    processes: int = Field(1, ge=1, le=1024)
    """Training processes, each with its share of every batch: one per GPU, or parts of a large CPU machine."""
    engine: Literal["torchrun", "ray"] = "torchrun"
    """torchrun: this machine. ray: an existing Ray cluster, which needs an object store all its nodes can reach."""
    address: str | None = Field(None, pattern=r"^(auto|local|ray://[\w.-]+:\d+|[\w.-]+:\d+)$")
    """Ray cluster, e.g. ray://head:10001; auto: the one this machine is part of. Only with engine ray."""

    @model_validator(mode="after")
    def _address_fits(self) -> Self:
        if (self.engine == "ray") != (self.address is not None):
            raise ValueError(f"engine {self.engine!r} with address {self.address!r}; ray needs one, torchrun has none")
        return self
