"""A student as an ONNX file: exported, with 8-bit weights, and run by ONNX Runtime, called as the torch model is.

Nothing heavy is imported here: who serves an ONNX file needs neither torch nor the libraries that export.

Shapes: B batch, L length, C outputs.
"""

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinybert.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from tinybert.kinds.task_kind import TaskKind
    from tinybert.release_config import ExportConfig

LIMIT = 2 * 10**9
"""Bytes of weights at most: an ONNX file, a protocol buffer, holds less than 2 GiB."""
QUANTISED = ["MatMul", "Gemm", "Gather"]
"""Operators whose weights are quantised; Gather reads embeddings."""


def check_export(config: "ExportConfig") -> None:
    """What exporting needs must be installed.

    Raises:
        ConfigError: It is not; the message names the extra and the switch.
    """
    needed = ("onnx", "onnxscript", "onnxruntime") if config.onnx else ()
    missing = [name for name in needed if not _is_installed(name)]
    if missing:
        raise ConfigError(
            f"export.onnx is true but {' and '.join(missing)} cannot be found: "
            "pip install 'tinybert-pipeline[export]', or set export.onnx and export.int8 to false"
        )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # a module without a spec
        return False


def export_onnx(model: "PreTrainedModel", kind: "TaskKind", names: Sequence[str], path: Path) -> None:
    """Write a model as one ONNX file, the same bytes for the same weights. Its output is `logits`.

    Args:
        model: On the CPU; its attention is eager afterwards, which makes a smaller graph than sdpa's.
        kind: Of the task: which logits it gives, (B, C) or (B, L, C).
        names: Of its inputs, (B, L) int64 each; B and L are free.
        path: File to write.

    Raises:
        ModelError: The model is too large for one file.
    """
    import onnx
    import torch

    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if size > LIMIT:
        raise ModelError(
            f"the student's weights are {size / 1e9:.1f} GB, one ONNX file holds {LIMIT / 1e9:.0f}; "
            "set export.onnx and export.int8 to false, or choose a smaller student"
        )
    model.eval().set_attn_implementation("eager")
    # A size of 1 would be taken for a fixed one, and one tensor given twice for one input.
    examples_BL = tuple(torch.ones(2, 8, dtype=torch.long) for _ in names)
    free = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    with _quiet():
        program = torch.onnx.export(
            _only_logits(model, kind, names),
            examples_BL,
            dynamic_shapes=((free,) * len(names),),
            input_names=list(names),
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    onnx.save(_plain(program.model_proto), path)


def _only_logits(model: "PreTrainedModel", kind: "TaskKind", names: Sequence[str]) -> "torch.nn.Module":
    """A model that takes its inputs in the order of their names, and gives its logits as one tensor."""
    import torch

    class OnlyLogits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *batch_BL: torch.Tensor) -> torch.Tensor:
            return kind.logits(self.model(**dict(zip(names, batch_BL, strict=True))))

    return OnlyLogits()


def quantise(source: Path, target: Path) -> None:
    """Write an ONNX model with 8-bit weights, embeddings included; activations are quantised as it runs.

    Weights of a product are quantised per output, to 7 of the 8 bits: with all 8, sums overflow on CPUs with AVX2 or
    AVX512 and without VNNI or AMX (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html), so
    the model measured here would say something else there.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    proto = onnx.load(source)
    add_pre_process_metadata(proto)  # the exporter has done it; else the root logger is warned
    with _quiet():
        quantize_dynamic(
            proto,
            target,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )


class OnnxModel:
    """A student in ONNX Runtime, on the CPU; takes what a transformers model takes, and gives logits.

    May be called from several threads at once.

    Args:
        directory: Exported student.
        file: Of the weights, relative to it.
        threads: For one forward pass. None: ONNX Runtime's choice, one per physical core.

    Raises:
        ImportError: onnxruntime is missing.
        ModelError: It cannot read the file.
    """

    training = False

    def __init__(self, directory: Path, file: str, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # Threads that wait busily would take the CPU from other models and processes between two calls.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._directory = directory
        try:
            self._session = onnxruntime.InferenceSession(
                str(directory / file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class but this
            version = onnxruntime.__version__
            raise ModelError(
                f"{directory / file}: onnxruntime {version} cannot read it ({str(error).splitlines()[0]}); "
                "install a newer onnxruntime, or export the model again"
            ) from error
        self.inputs = [found.name for found in self._session.get_inputs()]
        """Names of what it reads."""

    def logits(self, batch_BL: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Logits, (B, C) or (B, L, C), of ids and masks by the tokenizer's names; what it does not read is left out."""
        inputs_BL = {name: batch_BL[name] for name in self.inputs}
        logits: NDArray[np.float32] = self._session.run(["logits"], inputs_BL)[0]
        return logits

    def __call__(self, **batch_BL: "torch.Tensor") -> Any:
        """The same with tensors, as a transformers model is called: the answer has `logits`, on the CPU."""
        import torch

        arrays_BL = {name: batch_BL[name].cpu().numpy() for name in self.inputs}
        return SimpleNamespace(logits=torch.from_numpy(self.logits(arrays_BL)))

    @cached_property
    def device(self) -> "torch.device":
        """Where it runs: the CPU."""
        import torch

        return torch.device("cpu")

    @cached_property
    def config(self) -> "PretrainedConfig":
        """The student's config, as transformers reads it."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self._directory, trust_remote_code=False)

    def eval(self) -> "OnnxModel":
        """Nothing to change: it cannot be trained."""
        return self

    def train(self, mode: bool = False) -> "OnnxModel":
        """Nothing to change, whatever `mode` asks for."""
        return self


def _plain(proto: Any) -> Any:
    """Without the exporter's notes: they hold paths of this machine, and shapes that no longer hold when quantised."""
    graph = proto.graph
    del graph.value_info[:]
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    for value in (*graph.input, *graph.output):
        for axis, size in zip(("batch", "length", "outputs"), value.type.tensor_type.shape.dim, strict=False):
            if not size.HasField("dim_value"):
                size.dim_param = axis
    return proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings about themselves."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
