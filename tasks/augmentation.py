"""Tasks that make more data out of data: the masked language model, and augmentation with it."""

from tasks.policy import gpu_stage
from tasks.stage import run_stage
from tinybert.config import AugmentConfig, MlmConfig
from tinybert.refs import CorpusRef, DatasetRef, DatasetResult, ModelRef, ModelResult, VectorsRef
from tinybert.training_config import LaunchConfig


@gpu_stage("mlm")
def train_mlm(corpus: CorpusRef, teacher: ModelRef, config: MlmConfig, launch: LaunchConfig) -> ModelResult:
    """Train the encoder as a masked language model. Needs one accelerator slot."""
    return run_stage("mlm", ModelResult, corpus=corpus, teacher=teacher, config=config, launch=launch)


@gpu_stage("augment")
def augment_data(data: DatasetRef, model: ModelRef, vectors: VectorsRef | None, config: AugmentConfig) -> DatasetResult:
    """Add copies with words replaced. Needs one accelerator slot."""
    return run_stage("augment", DatasetResult, data=data, model=model, vectors=vectors, config=config)
