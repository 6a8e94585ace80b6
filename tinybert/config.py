"""What a run can be asked to do: one class per box of the Prefect form, one `DistillConfig` for the whole.

A field's docstring is what the form shows: meaning, unit, effect of raising it. What depends on the teacher's own
shape cannot be checked here; `tinybert.checks` does it before any accelerator time is spent.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tinybert.augment_config import AugmentConfig, QualityConfig
from tinybert.benchmark_table import BENCHMARKS, BenchmarkName, filled
from tinybert.data_config import DataConfig
from tinybert.form import PIN, Form
from tinybert.release_config import EvaluateConfig, ExportConfig, GateConfig, PublishConfig
from tinybert.training_config import LaunchConfig, OptimConfig, SelectionConfig


class TeacherConfig(Form):
    """The model to distil."""

    source: str = Field(pattern=PIN)
    """A BERT encoder: hub:owner/name@revision, file:/directory, s3://..., package:module/path, models:/name@alias."""
    fine_tuned: bool = False
    """The source already classifies this task: it is used as it is, not fine-tuned again."""


class StudentConfig(Form):
    """Shape and beginning of the student. The default shape is the paper's TinyBERT4."""

    source: str | None = Field(None, pattern=PIN)
    """An existing general student to start from; it then sets the shape, and general distillation is skipped."""
    layers: int = Field(4, ge=1, le=48)
    """Transformer layers (M in the paper). Cost and size grow in proportion."""
    hidden: int = Field(312, ge=2, le=8192)
    """Width of the hidden states; a multiple of heads."""
    ffn: int = Field(1200, ge=1, le=65536)
    """Width inside the feed-forward part."""
    heads: int = Field(12, ge=1, le=128)
    """Attention heads. With as many as the teacher has, its attention scores are learnt; else relations."""
    start: Literal["random", "teacher"] = "random"
    """Weights before general distillation: random, or the mapped teacher layers', cut down by SVD when narrower."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}; choose one that is")
        return self


class MapConfig(Form):
    """Which teacher layer each student layer learns from, and how the parts of the loss weigh."""

    strategy: Literal["uniform", "top", "bottom", "explicit"] = "uniform"
    """uniform: every N/M-th teacher layer, the paper's choice; top or bottom: the last or first M; explicit: a list."""
    explicit: list[int] = []
    """Teacher layers (1 is the first) for student layers 1..M, rising; only with strategy explicit."""
    projection: Literal["per_layer", "shared"] = "per_layer"
    """Where widths differ: one learnt projection from student to teacher width per layer, or one for all."""
    attention: Literal["auto", "scores", "relations"] = "auto"
    """scores: the paper's attention loss, equal heads needed; relations: MiniLMv2's; auto: scores if heads agree."""
    relation_heads: int | None = Field(None, ge=1, le=256)
    """Heads of the relation loss, a divisor of both widths. Empty: the teacher's, or the most that divide both."""
    layer_weights: list[float] = []
    """Weight of each student layer in the attention and hidden losses (lambda). Empty: 1 each."""
    attention_weight: float = Field(1.0, ge=0)
    """Weight of the attention loss (eq. 7 of the paper)."""
    hidden_weight: float = Field(1.0, ge=0)
    """Weight of the hidden state loss (eq. 8)."""
    embedding_weight: float = Field(1.0, ge=0)
    """Weight of the embedding loss (eq. 9)."""

    @model_validator(mode="after")
    def _explicit_fits(self) -> Self:
        if (self.strategy == "explicit") != bool(self.explicit):
            raise ValueError(f"explicit {self.explicit} with strategy {self.strategy!r}; give both or neither")
        if self.explicit != sorted(set(self.explicit)) or (self.explicit and self.explicit[0] < 1):
            raise ValueError(f"explicit {self.explicit}: teacher layers must rise and start at 1 or later")
        if any(weight < 0 for weight in self.layer_weights) or (self.layer_weights and not any(self.layer_weights)):
            raise ValueError(f"layer_weights {self.layer_weights}: none may be negative, and not all 0")
        if not self.attention_weight + self.hidden_weight + self.embedding_weight:
            raise ValueError("attention_weight, hidden_weight and embedding_weight are all 0; nothing is learnt")
        return self


class CorpusConfig(Form):
    """Plain text for masked language modelling and general distillation."""

    source: str | None = Field(None, pattern=PIN)
    """Text file(s), or a table with a text column. Needed by mlm and general."""
    text: str = "text"
    """Column of the text where the source is a table."""
    where: dict[str, str] = {}
    """Only rows whose columns hold these values."""
    strip_markup: bool = False
    """Take out HTML and XML tags."""
    length: int = Field(128, ge=8, le=512)
    """Tokens per packed sequence, special tokens included."""
    sequences: int | None = Field(None, ge=1)
    """Packed sequences at most, from the beginning of the text. Empty: all."""
    pairs: bool = False
    """Two segments a sequence, of which every other second one follows on the first: for mlm.next_sentence."""


class MlmConfig(Form):
    """Masked language modelling of the encoder: adapts it to the corpus, and grows a head where there is none."""

    enabled: bool = False
    """Off: the teacher's own head proposes words for augmentation."""
    adapt_teacher: bool = False
    """On: fine-tuning and general distillation start from the adapted encoder instead of the given one."""
    masked: float = Field(0.15, gt=0, lt=1)
    """Share of tokens to predict; of these 80% become the mask, 10% another token, 10% stay."""
    whole_words: bool = False
    """Words of several pieces are masked as a whole; where words have no spaces between, every character is one."""
    next_sentence: bool = False
    """Learns as well whether the second segment follows on the first, as BERT did. Needs corpus.pairs, and a BERT."""
    optim: OptimConfig = OptimConfig(epochs=1, learning_rate=1e-4)
    """Training."""


class FineTuneConfig(Form):
    """Fine-tuning of the teacher."""

    floor: float | None = Field(0.05, ge=0, le=1)
    """The run stops where the teacher's score is not this far (0.05: 5 points) above the best constant answer's. Empty:
    it goes on with any teacher, e.g. of WNLI, where few are above it."""
    optim: OptimConfig = OptimConfig(learning_rate=3e-5)
    """Training."""
    selection: SelectionConfig = SelectionConfig(patience=2)
    """Best checkpoint."""


class GeneralConfig(Form):
    """General distillation: the student learns the pretrained teacher's states on plain text."""

    enabled: bool = True
    """Off: task distillation starts from the student's starting weights."""
    optim: OptimConfig = OptimConfig(learning_rate=1e-4)
    """Training."""


class TargetsConfig(Form):
    """What the student imitates: the teacher's answers for every training row, computed once and kept."""

    states_gb: float = Field(0.0, ge=0, le=100_000)
    """Gigabytes its states may take; within them `layers` trains several times faster. 0: computed at each step."""
    batch_tokens: int = Field(4096, ge=64)
    """Tokens per forward pass of the teacher. Raising it needs more memory."""


class LayersConfig(Form):
    """Task distillation, first part: the Transformer and embedding losses."""

    enabled: bool = True
    """Off: only the prediction loss is distilled."""
    optim: OptimConfig = OptimConfig(epochs=20)
    """Training."""


class LogitsConfig(Form):
    """Task distillation, second part: the prediction loss."""

    temperature: float = Field(1.0, gt=0, le=100)
    """Softens teacher and student (t in eq. 10). The paper finds 1 best."""
    hard_weight: float = Field(0.0, ge=0, lt=1)
    """Share of the loss that is held against the data's own labels."""
    augmented: bool | None = None
    """Whether it learns from augmented copies too. Empty: as in the paper, not in regression and question answering."""
    optim: OptimConfig = OptimConfig(learning_rate=3e-5)
    """Training."""
    selection: SelectionConfig = SelectionConfig()
    """Best checkpoint."""


class BaselineConfig(Form):
    """The student's shape trained without distillation, to show what distillation is worth."""

    enabled: bool = True
    """Off: the table has no baseline."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Peak learning rate; a random start bears a higher one than a pretrained one."""


class DistillConfig(Form):
    """Everything one distillation run needs to know."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Name of the task, in runs, artifacts and the registry."""
    benchmark: BenchmarkName | None = None
    """A known task: what the form leaves open of its rows, columns, labels, copies and epochs is filled in. data.source
    may name a directory with its authors' files instead of the hub's."""
    data: DataConfig
    """Labelled rows."""
    teacher: TeacherConfig
    """Where the teacher comes from."""
    student: StudentConfig = StudentConfig()
    """Shape of the student."""
    layer_map: MapConfig = MapConfig()
    """Which teacher layer teaches which student layer."""
    corpus: CorpusConfig = CorpusConfig()
    """Plain text."""
    mlm: MlmConfig = MlmConfig()
    """Masked language modelling."""
    fine_tune: FineTuneConfig = FineTuneConfig()
    """Training of the teacher on the task."""
    general: GeneralConfig = GeneralConfig()
    """General distillation."""
    augment: AugmentConfig = AugmentConfig()
    """Data augmentation."""
    quality: QualityConfig = QualityConfig()
    """Which augmented copies are kept."""
    targets: TargetsConfig = TargetsConfig()
    """The teacher's answers."""
    layers: LayersConfig = LayersConfig()
    """Task distillation, intermediate layers."""
    logits: LogitsConfig = LogitsConfig()
    """Task distillation, predictions."""
    baseline: BaselineConfig = BaselineConfig()
    """The same student without distillation."""
    export: ExportConfig = ExportConfig()
    """ONNX and int8."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Comparison."""
    gate: GateConfig = GateConfig()
    """What is promoted."""
    publish: PublishConfig = PublishConfig()
    """Registration and promotion."""
    launch: LaunchConfig = LaunchConfig()
    """Processes and machines of the training stages."""
    reason: str = Field("", max_length=200)
    """Why this run is made, for those who look at it later. It changes nothing of what is computed."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_benchmark(cls, values: Any) -> Any:
        named = values.get("benchmark") if isinstance(values, dict) else None
        return filled(named, values) if named in BENCHMARKS else values

    @model_validator(mode="after")
    def _boxes_agree(self) -> Self:
        if self.corpus.source is None and self.needs_corpus:
            box = "mlm" if self.mlm.enabled else "general"
            raise ValueError(f"{box}.enabled is true but corpus.source is empty; name a corpus or set it to false")
        if (self.mlm.enabled and self.mlm.next_sentence) != self.corpus.pairs:
            raise ValueError(
                f"mlm.next_sentence is {self.mlm.next_sentence} (mlm.enabled {self.mlm.enabled}) but corpus.pairs is "
                f"{self.corpus.pairs}; set both or neither"
            )
        if self.mlm.adapt_teacher and (not self.mlm.enabled or self.teacher.fine_tuned):
            raise ValueError(
                "mlm.adapt_teacher is true, which needs mlm.enabled true and teacher.fine_tuned false; "
                f"found {self.mlm.enabled} and {self.teacher.fine_tuned}"
            )
        return self

    @model_validator(mode="after")
    def _map_fits_student(self) -> Self:
        if self.student.source is not None:  # it sets the shape, against which `tinybert.checks` holds the map
            return self
        for field, what in (("explicit", "teacher layer"), ("layer_weights", "weight")):
            given = getattr(self.layer_map, field)
            if given and len(given) != self.student.layers:
                raise ValueError(
                    f"layer_map.{field} has {len(given)} entries but student.layers is {self.student.layers}; "
                    f"give one {what} per student layer"
                )
        return self

    @model_validator(mode="after")
    def _recipes_fit_kind(self) -> Self:
        if self.augment.recipes and self.data.kind in ("token_classification", "question_answering"):
            raise ValueError(
                f"augment.recipes is set, but data.kind is {self.data.kind}: nlpaug's recipes move words about, and "
                "labels could not follow; leave them out, the paper's algorithm replaces words in place"
            )
        return self

    @model_validator(mode="after")
    def _batches_reach_all_processes(self) -> Self:
        trained: dict[str, tuple[bool, OptimConfig]] = {
            "mlm": (self.mlm.enabled, self.mlm.optim),
            "fine_tune": (not self.teacher.fine_tuned, self.fine_tune.optim),
            "general": (self.general_is_run, self.general.optim),
            "layers": (self.layers.enabled, self.layers.optim),
            "logits": (True, self.logits.optim),
        }
        for box, (is_run, optim) in trained.items():
            if is_run and optim.batch_size < self.launch.processes:
                raise ValueError(
                    f"launch.processes is {self.launch.processes} but {box}.optim.batch_size is {optim.batch_size}; "
                    "each process needs a row of every batch: use fewer, or a larger batch"
                )
        return self

    @property
    def copies_are_judged(self) -> bool:
        """The teacher decides which augmented copies are kept."""
        return self.augment.enabled and self.data.judged

    @property
    def predictions_from_copies(self) -> bool:
        """The prediction phase learns from augmented copies."""
        asked = self.logits.augmented
        return self.augment.enabled and (self.data.judged if asked is None else asked)

    @property
    def general_is_run(self) -> bool:
        """General distillation has something to do: it is on, and no general student was given."""
        return self.general.enabled and self.student.source is None

    @property
    def needs_corpus(self) -> bool:
        """Some stage reads plain text."""
        return self.mlm.enabled or self.general_is_run
