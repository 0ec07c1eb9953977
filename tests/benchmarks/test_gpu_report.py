"""What `make gpu` reads from pytest's output: counts, and the names of tests that there was no time for."""

from __future__ import annotations

from benchmarks.gpu import __main__ as report

OUTPUT = """
tests/gpu/test_gpu.py::test_tokens[dino-fp32-0.0001] PASSED                      [ 25%]
tests/gpu/test_gpu.py::test_two_processes SKIPPED (needs two cards)              [ 50%]
tests/gpu/test_gpu.py::test_training[dino] FAILED                                [ 75%]
tests/gpu/test_gpu.py::test_a_protocol[knn] SKIPPED (not begun: out of time)     [100%]
"""


def test_tests_are_counted_and_the_late_ones_named() -> None:
    assert report.counts(OUTPUT) == {"passed": 1, "failed": 1, "skipped": 1, "not begun": 1}
    assert report.not_begun(OUTPUT) == ["test_a_protocol[knn]"]
    cut = OUTPUT + "tests/gpu/test_gpu.py::test_a_protocol[linear] "
    assert report.under_way(cut) == "test_a_protocol[linear]"
    assert report.under_way("") == "collecting" and report.counts("") == {}
