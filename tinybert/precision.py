"""Where bf16 arithmetic is done by the hardware itself, so that it saves time instead of costing it."""

import torch


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 natively: CUDA from Ampere on, or a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
