"""What Hugging Face's Trainer is told of a stage."""

import math
from pathlib import Path

from transformers import TrainingArguments

from tinybert.batches import Plan
from tinybert.learner import Validation
from tinybert.precision import device, use_bf16
from tinybert.training_config import OptimConfig

LOG_EVERY = 10
"""Steps between two points of a loss curve."""


def trainer_arguments(
    optim: OptimConfig, batches: Plan, resume: Path, validation: Validation | None
) -> TrainingArguments:
    """One epoch of the plan's steps, with the evaluations and checkpoints that the form asks for.

    Args:
        optim: How the stage trains.
        batches: Its steps.
        resume: Directory of its checkpoints.
        validation: How often it is scored; None: never.
    """
    evaluations, where = validation.selection.evaluations_per_epoch if validation else 1, device()
    arguments = TrainingArguments(
        output_dir=str(resume),
        max_steps=batches.steps,
        per_device_train_batch_size=optim.batch_size,
        learning_rate=optim.learning_rate,
        warmup_steps=math.ceil(optim.warmup * batches.steps),
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=use_bf16(where, optim.precision),
        seed=optim.seed,
        ignore_data_skip=True,  # the sampler begins where the checkpoint ends
        restore_callback_states_from_checkpoint=True,
        logging_steps=LOG_EVERY,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validation else "no",
        eval_steps=math.ceil(batches.steps_per_epoch / evaluations),
        save_strategy="steps",
        save_steps=optim.checkpoint_every,
        save_total_limit=2,
        metric_for_best_model=validation.metric if validation else None,
        greater_is_better=True,
        use_cpu=where.type == "cpu",
        ddp_broadcast_buffers=False,
        remove_unused_columns=False,
        average_tokens_across_devices=False,
        disable_tqdm=True,
        report_to="none",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several would make it DataParallel, which state capture cannot bear
    return arguments
