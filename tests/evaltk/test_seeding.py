"""Named random streams: the same on every machine, each apart from the others."""

from __future__ import annotations

import pytest
import torch

from evaltk.seeding import derive, generator, normal


def test_streams_are_pinned() -> None:
    """A change of these numbers changes every random baseline."""
    assert derive(0) == int("5feceb66ffc86f38", 16) >> 1  # sha256 of "0" begins so
    assert derive(0, "knn", "choose") == 7742175503287444180
    assert 0 <= derive(2**70, "x") < 2**63


def test_streams_differ_by_seed_and_by_every_name() -> None:
    names = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", "b"), (0, "ab"), (0, "b", "a"), (-1,)]
    assert len({derive(*n) for n in names}) == len(names)


def test_a_generator_is_fresh_and_the_global_stream_untouched() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    first, again = (torch.rand(4, generator=generator(0, "x")) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.rand(2), wanted)


def test_normal_draws_are_numpys() -> None:
    """Stored numbers, to half a float32 step: torch's stream names numpy's, whose ziggurat is a table and a product."""
    found = normal(2, 3, std=0.02, generator=generator(0, "a"))
    again = generator(0, "a")
    assert torch.equal(found, normal(2, 3, std=0.02, generator=again))
    assert not torch.equal(found, normal(2, 3, std=0.02, generator=again))
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found[0],
        torch.tensor([0.0005530439666472375, -0.008570163510739803, -0.008456171490252018]),
        rtol=2**-24,
        atol=0,
    )
    many = normal(100_000, std=1.0, generator=generator(0, "b")).double()
    assert abs(float(many.mean())) < 0.01 and float(many.std()) == pytest.approx(1, abs=0.01)
