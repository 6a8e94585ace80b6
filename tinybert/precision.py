"""The arithmetic that is fastest on a device: where it multiplies bf16 itself, and how it computes attention."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 natively: CUDA from Ampere on, or a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def fastest_attention(device: torch.device) -> AbstractContextManager[None]:
    """Inside, attention is computed in the way that trains fastest on the device.

    On a CPU that is plain matrix products: the backward pass of its flash kernel takes a short batch up to twice as
    long (`benchmarks/distill_step.py`).
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def halve_linears(model: nn.Module) -> None:
    """Cast the weights of a frozen model's linear layers to bf16, once; it then runs under bf16 autocast only.

    Autocast gives the same numbers without this, but casts weights that get no gradient again at every pass.
    Weights that a linear layer shares with another, such as an embedding, stay there as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))
