"""The table of machines, and who is who in it."""

import pytest

from flops_fit.training.hardware import KNOWN, PRECISIONS, called, peak_flops


class TestPeak:
    @pytest.mark.parametrize(
        ("name", "precision", "peak", "of"),
        [
            ("NVIDIA H100 80GB HBM3", "bf16", 989.4e12, "H100 SXM bf16 dense"),
            ("cuda: NVIDIA H100 80GB HBM3", "fp32", 66.9e12, "H100 SXM fp32 dense"),
            ("NVIDIA H100 PCIe", "bf16", 756e12, "H100 PCIe bf16 dense"),
            ("NVIDIA H200", "tf32", 494.7e12, "H200 SXM tf32 dense"),
            ("NVIDIA B200", "bf16", 2250e12, "B200 bf16 dense"),
            ("NVIDIA A100-SXM4-80GB", "bf16", 312e12, "A100 SXM 80 GB bf16 dense"),
            ("NVIDIA A100-PCIE-40GB", "fp32", 19.5e12, "A100 40 GB fp32 dense"),
            ("NVIDIA L40S", "bf16", 362e12, "L40S bf16 dense"),
            ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12, "RTX 4090 bf16 dense"),
            ("NVIDIA GeForce RTX 5090", "fp16", 209.5e12, "RTX 5090 fp16 dense"),
            ("Tesla T4", "fp16", 65e12, "T4 fp16 dense"),
        ],
    )
    def test_of_cards_as_cuda_calls_them(self, name, precision, peak, of):
        assert peak_flops(name, precision) == (peak, of)

    @pytest.mark.parametrize(
        ("name", "precision"),
        [
            ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
            ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16"),
            ("NVIDIA H20", "bf16"),
            ("Tesla T4", "bf16"),  # its tensor cores have none
            ("AMD Instinct MI300X", "bf16"),
            ("cpu: x86_64", "fp32"),
        ],
    )
    def test_nothing_is_said_of_others(self, name, precision):
        assert peak_flops(name, precision) is None


@pytest.mark.parametrize("hardware", KNOWN.values(), ids=KNOWN)
def test_the_table_makes_sense(hardware):
    """A digit lost would show: bytes a FLOP, and the order of precisions."""
    assert set(hardware.peaks) <= set(PRECISIONS)
    peaks = [hardware.peaks[p] for p in PRECISIONS if p in hardware.peaks]
    assert peaks == sorted(peaks)
    assert 0.0005 < hardware.bandwidth / peaks[-1] < 0.1
    assert 10e9 < hardware.memory_bytes < 200e9


def test_an_a100_of_40_gb_is_not_one_of_80():
    assert called("NVIDIA A100-SXM4-40GB").memory_bytes < 41e9 * 1.074
