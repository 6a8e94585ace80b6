"""Where models run, and where the hardware itself does bf16 arithmetic, so that it saves time instead of costing it."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(where: torch.device, precision: str = "auto") -> AbstractContextManager[Any]:
    """bf16 autocast as the form's `precision` says; auto: where the hardware multiplies bf16 natively."""
    return torch.autocast(where.type, torch.bfloat16, enabled=use_bf16(where, precision))


def use_bf16(where: torch.device, precision: str) -> bool:
    """Whether `precision` (auto, bf16, fp32) means bf16 on this device."""
    return native_bf16(where) if precision == "auto" else precision == "bf16"


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 natively: CUDA from Ampere on, or a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def halve_linears(model: nn.Module) -> None:
    """Cast the weights of a frozen model's linear layers to bf16, once; it then runs under bf16 autocast only.

    Autocast gives the same numbers without this, but casts weights that get no gradient again at every pass.
    Weights that a linear layer shares with another, such as an embedding, stay there as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))
