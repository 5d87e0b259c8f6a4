"""What machines can do: peak FLOP/s by precision, memory, bandwidth, of named ones and of yours.

Peaks are those of the makers' datasheets, dense: NVIDIA prints twice as much "with sparsity", which
no training here has. Tensor-core peaks are for sums in fp32, as torch's products have them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from flops_fit.errors import ConfigError
from flops_fit.signatures import did_you_mean

GIB = 2.0**30


@dataclass(frozen=True)
class Hardware:
    """One device to train on.

    `peaks`: FLOP/s by precision, one of `PRECISIONS`; none for a precision that it lacks. Bytes
    are those that torch finds there, a little less than on the box; `bandwidth` is in bytes/s.
    """

    name: str  # as machine=.. takes it
    title: str  # as people say it
    device: str  # cuda, mps or cpu
    peaks: Mapping[str, float]
    memory_bytes: float
    bandwidth: float

    @property
    def fastest_precision(self) -> str:
        """What precision=auto means there: bf16 on a GPU that computes it, else fp32."""
        return "bf16" if self.device == "cuda" and "bf16" in self.peaks else "fp32"


PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""Of products. tf32 is what fp32 becomes where torch is told to round."""


def _tensor_cores(half: float, tf32: float, fp32: float) -> dict[str, float]:
    return {"fp32": fp32, "tf32": tf32, "bf16": half, "fp16": half}


_HOPPER_SXM = _tensor_cores(989.4e12, 494.7e12, 66.9e12)
_AMPERE_A100 = _tensor_cores(312e12, 156e12, 19.5e12)

KNOWN = {
    hardware.name: hardware
    for hardware in (
        # NVIDIA H100 datasheet (halved where it says sparse); memory by torch: 79.1 GiB.
        Hardware("h100", "H100 SXM", "cuda", _HOPPER_SXM, 79.1 * GIB, 3.35e12),
        Hardware(
            "h100_pcie", "H100 PCIe", "cuda", _tensor_cores(756e12, 378e12, 51.2e12),
            79.1 * GIB, 2.0e12,
        ),
        Hardware(
            "h100_nvl", "H100 NVL", "cuda", _tensor_cores(835e12, 417e12, 60e12),
            93.1 * GIB, 3.9e12,
        ),
        # NVIDIA H200 and GH200 datasheets: the H100's arithmetic with other memory.
        Hardware("h200", "H200 SXM", "cuda", _HOPPER_SXM, 139.8 * GIB, 4.8e12),
        Hardware(
            "h200_nvl", "H200 NVL", "cuda", _tensor_cores(835e12, 417e12, 60e12),
            139.8 * GIB, 4.8e12,
        ),
        Hardware("gh200", "GH200", "cuda", _HOPPER_SXM, 94.5 * GIB, 4.0e12),
        # NVIDIA HGX B200: 8 of them 36 PFLOP/s sparse in bf16, 18 in tf32, 600 TFLOP/s in fp32.
        Hardware(
            "b200", "B200", "cuda", _tensor_cores(2250e12, 1125e12, 75e12), 178.3 * GIB, 7.7e12
        ),
        # NVIDIA A100 datasheet.
        Hardware("a100", "A100 SXM 80 GB", "cuda", _AMPERE_A100, 79.1 * GIB, 2.039e12),
        Hardware("a100_40gb", "A100 40 GB", "cuda", _AMPERE_A100, 39.4 * GIB, 1.555e12),
        Hardware("a100_pcie", "A100 PCIe 80 GB", "cuda", _AMPERE_A100, 79.1 * GIB, 1.935e12),
        # NVIDIA L40S, L4 and A10 datasheets.
        Hardware(
            "l40s", "L40S", "cuda", _tensor_cores(362e12, 183e12, 91.6e12), 44.4 * GIB, 864e9
        ),
        Hardware("l4", "L4", "cuda", _tensor_cores(121e12, 60e12, 30.3e12), 22.0 * GIB, 300e9),
        Hardware("a10", "A10", "cuda", _tensor_cores(125e12, 62.5e12, 31.2e12), 22.1 * GIB, 600e9),
        # NVIDIA architecture papers of the GeForce cards (GA102, Ada, Blackwell), appendix A: the
        # rows "with FP32 accumulate", half of those with FP16 accumulate.
        Hardware(
            "rtx3090", "RTX 3090", "cuda", _tensor_cores(71.2e12, 35.6e12, 35.6e12),
            23.7 * GIB, 936e9,
        ),
        Hardware(
            "rtx4090", "RTX 4090", "cuda", _tensor_cores(165.2e12, 82.6e12, 82.6e12),
            23.6 * GIB, 1008e9,
        ),
        Hardware(
            "rtx5090", "RTX 5090", "cuda", _tensor_cores(209.5e12, 104.8e12, 104.8e12),
            31.4 * GIB, 1792e9,
        ),
        # NVIDIA T4 and V100 datasheets: tensor cores for fp16 alone.
        Hardware("t4", "T4", "cuda", {"fp32": 8.1e12, "fp16": 65e12}, 14.6 * GIB, 320e9),
        Hardware("v100", "V100 SXM2", "cuda", {"fp32": 15.7e12, "fp16": 125e12}, 31.7 * GIB, 900e9),
        # An Apple M3 Max with 40 GPU cores: 128 lanes each, a multiply and an add at 1.4 GHz. Its
        # GPU may take 3/4 of 48 GB (Metal's recommended working set).
        Hardware("mps", "M3 Max, 48 GB", "mps", {"fp32": 14.2e12}, 36 * GIB, 400e9),
        # A desktop of 16 cores at 3 GHz with two AVX2 multiply-adds of 8 numbers a cycle, and two
        # channels of DDR5-5600.
        Hardware("cpu", "desktop, 16 cores", "cpu", {"fp32": 1.5e12}, 60 * GIB, 90e9),
    )
}  # fmt: skip
"""Name -> machine that can be named."""


_CALLED = (
    (r"H100( \d+GB HBM\d\w?)?", "h100"),
    (r"H100 SXM5( \d+GB)?", "h100"),
    (r"H100 PCIE", "h100_pcie"),
    (r"H100 NVL", "h100_nvl"),
    (r"H200", "h200"),
    (r"H200 NVL", "h200_nvl"),
    (r"GH200( \w+)*", "gh200"),
    (r"B200", "b200"),
    (r"A100 SXM4 80GB", "a100"),
    (r"A100 80GB PCIE", "a100_pcie"),
    (r"A100 (SXM4|PCIE) 40GB", "a100_40gb"),
    (r"L40S", "l40s"),
    (r"L4", "l4"),
    (r"A10", "a10"),
    (r"RTX 3090", "rtx3090"),
    (r"RTX 4090", "rtx4090"),
    (r"RTX 5090", "rtx5090"),
    (r"T4", "t4"),
    (r"V100 SXM2 \d+GB", "v100"),
)
"""What CUDA calls a card, its maker left out -> the card. Whole names alone: a laptop's RTX 4090
and a slice of an H100 (MIG) have other peaks, which nobody prints."""


def called(device_name: str) -> Hardware | None:
    """The machine that `torch.cuda.get_device_name` names, with or without a leading `cuda: `."""
    words = device_name.upper().removeprefix("CUDA: ").replace("-", " ").split()
    name = " ".join(word for word in words if word not in ("NVIDIA", "TESLA", "GEFORCE"))
    found = next((known for pattern, known in _CALLED if re.fullmatch(pattern, name)), None)
    return None if found is None else KNOWN[found]


def peak_flops(device_name: str, precision: str) -> tuple[float, str] | None:
    """Peak FLOP/s of the device in products of this precision, and what it is the peak of.

    `device_name` is CUDA's, `precision` one of `PRECISIONS`; such as (989.4e12, "H100 SXM bf16
    dense"). None where the device is not in the table or has no such products.
    """
    hardware = called(device_name)
    if hardware is None or precision not in hardware.peaks:
        return None
    return hardware.peaks[precision], f"{hardware.title} {precision} dense"


def named(machine: str) -> Hardware:
    """The machine of this name, or that a YAML file describes. Raises `ConfigError`."""
    if machine in KNOWN:
        return KNOWN[machine]
    if machine.endswith((".yaml", ".yml")):
        return described(Path(machine))
    raise ConfigError(
        f"there is no machine {machine!r}: {did_you_mean(machine, KNOWN)}"
        f"There are {', '.join(KNOWN)}; or name a YAML file of yours with {_FIELDS}"
    )


_FIELDS = "device, peaks (FLOP/s by precision), memory_bytes and bandwidth (bytes/s)"

DEVICES = ("cuda", "mps", "cpu")


def described(path: Path) -> Hardware:
    """The machine of a YAML file. Raises `ConfigError` that says what is missing or odd."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"machine {path} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"machine {path} is no YAML: {error}") from error
    needed = {"device", "peaks", "memory_bytes", "bandwidth"}
    if not isinstance(values, dict) or not needed <= values.keys() <= needed | {"title"}:
        got = ", ".join(map(str, values)) if isinstance(values, dict) else repr(values)
        raise ConfigError(f"machine {path} has {got}: give {_FIELDS}, and a title if you like")
    if values["device"] not in DEVICES:
        raise ConfigError(
            f"machine {path}: device is {values['device']!r}: give {', '.join(DEVICES)}"
        )
    return Hardware(
        name=path.stem,
        title=str(values.get("title", path.stem)),
        device=values["device"],
        peaks=_peaks(path, values["peaks"]),
        memory_bytes=_positive(path, "memory_bytes", values["memory_bytes"]),
        bandwidth=_positive(path, "bandwidth", values["bandwidth"]),
    )


def _peaks(path: Path, values: Any) -> dict[str, float]:
    if not isinstance(values, dict) or "fp32" not in values or not values.keys() <= {*PRECISIONS}:
        raise ConfigError(
            f"machine {path}: peaks is {values!r}: give FLOP/s of fp32 and, where it has them, of "
            f"{', '.join(PRECISIONS[1:])}, such as {{fp32: 67e12, bf16: 989e12}}"
        )
    return {name: _positive(path, f"peaks.{name}", value) for name, value in values.items()}


def _positive(path: Path, name: str, value: Any) -> float:
    """YAML takes 67e12 for text; text that is a number is one."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 < number < math.inf:
        raise ConfigError(f"machine {path}: {name} is {value!r}: give a number above 0")
    return number
