"""Full float32 products inside, the process's own settings outside, whichever of torch's interfaces set them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from evaltk import precise

CPU = torch.device("cpu")


def test_settings_are_restored() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(ZeroDivisionError), precise.products(CPU):
            assert torch.get_float32_matmul_precision() == "highest"
            raise ZeroDivisionError
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch < 2.9 has one interface")
def test_a_backend_set_by_the_newer_interface() -> None:
    """In a process of its own: torch does not forget that both interfaces were used."""
    script = (
        "import torch; from evaltk import precise\n"
        "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'\n"
        "with precise.products(torch.device('cpu')):\n"
        "    assert torch.backends.mkldnn.matmul.fp32_precision == 'ieee'\n"
        "assert torch.backends.mkldnn.matmul.fp32_precision == 'bf16'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
