"""Use of the mixture against slow float64 loops from the formulas, and against `evaltk.vmf`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from evaltk import vmf
from evaltk.checkpoints.load import load_checkpoint
from evaltk.errors import DataError, SettingsError
from evaltk.models.heads import Head
from evaltk.prototypes.assignment import assign, margin
from evaltk.prototypes.head import formulation, head_of
from evaltk.prototypes.mixture import Mixture, mixture, use
from evaltk.prototypes.mixture_fit import fit, nearest_images, projection
from evaltk.types import HeadWeights

N, D, P, K = 60, 6, 5, 9


@pytest.fixture(scope="module")
def head() -> Head:
    """One linear layer, prototypes of unequal norms (one gain negative), a centre."""
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "mlp.weight": torch.randn(P, D, generator=draw),
        "mlp.bias": torch.randn(P, generator=draw),
        "prototypes.weight_v": torch.randn(K, P, generator=draw),
        "prototypes.weight_g": torch.rand(K, 1, generator=draw) + 0.5,
    }
    tensors["prototypes.weight_g"][3] *= -1
    return Head(HeadWeights(kind="dino", tensors=tensors, center=torch.randn(K, generator=draw)))


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((N, D)).astype(np.float32)


def slow(head: Head, x: np.ndarray, m: Mixture) -> dict[str, np.ndarray]:
    """Scores, responsibilities and log-likelihood, one image and one prototype at a time."""
    w = head.prototypes.double().numpy()
    y = head.embed(torch.from_numpy(x)).double().numpy()
    tau, p = m.temperature, w.shape[1]
    scores, density = np.empty((len(x), len(w))), np.empty(len(x))
    log_c = [float(vmf.log_normalizer(np.linalg.norm(v) / tau, p)) for v in w]
    weight = np.empty(len(w))
    for k in range(len(w)):
        shift = log_c[k] if m.scoring == "vmf" else 0.0
        if m.centred:
            shift -= float(head.center[k]) / (1 if m.scoring == "vmf" else tau)
        weight[k] = math.exp(shift - log_c[k])
        for i in range(len(x)):
            scores[i, k] = w[k] @ y[i] / tau + shift
    weight /= weight.sum()
    for i in range(len(x)):
        density[i] = sum(weight[k] * math.exp(w[k] @ y[i] / tau + log_c[k]) for k in range(len(w)))
    gamma = np.exp(scores - scores.max(axis=1, keepdims=True))
    gamma /= gamma.sum(axis=1, keepdims=True)
    return {"assigned": scores.argmax(axis=1), "gamma": gamma, "log_likelihood": np.log(density)}


@pytest.mark.parametrize("scoring", ["linear", "vmf"])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("centred", [False, True])
def test_use_against_a_loop(head: Head, x: np.ndarray, scoring: str, temperature: float, centred: bool) -> None:
    m = mixture(head, scoring=scoring, temperature=temperature, centred=centred)
    wanted = slow(head, x, m)
    for block in (K, 7 * K, 10**6):
        (found,) = use(head, x, [m], block=block)
        np.testing.assert_array_equal(found.assigned, wanted["assigned"])
        np.testing.assert_allclose(found.responsibility, wanted["gamma"].mean(axis=0), atol=2e-6)
        np.testing.assert_allclose(found.log_likelihood, wanted["log_likelihood"], atol=2e-4)
        entropy = -(wanted["gamma"] * np.log(wanted["gamma"] + 1e-300)).sum(axis=1).mean()
        assert found.entropy == pytest.approx(entropy, abs=1e-5)
        np.testing.assert_array_equal(found.counts(), np.bincount(wanted["assigned"], minlength=K))


@pytest.mark.parametrize("scoring", ["linear", "vmf"])
@pytest.mark.parametrize("centred", [False, True])
def test_use_of_a_whole_dino_head(scoring: str, centred: bool) -> None:
    """The golden head: three layers, 200 prototypes of 32 dimensions, gains that differ, a centre."""
    golden = Path(__file__).parents[1] / "golden" / "dino_p16_full_checkpoint.pth"
    whole = head_of(load_checkpoint(golden, num_heads=3))
    tokens = np.random.default_rng(0).standard_normal((25, 48)).astype(np.float32)
    m = mixture(whole, scoring=scoring, temperature=0.07, centred=centred)
    wanted = slow(whole, tokens, m)
    (found,) = use(whole, tokens, [m], block=1_000)
    np.testing.assert_array_equal(found.assigned, wanted["assigned"])
    np.testing.assert_allclose(found.responsibility, wanted["gamma"].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.log_likelihood, wanted["log_likelihood"], atol=2e-4)


def test_vmf_responsibilities_are_those_of_vmf(head: Head, x: np.ndarray) -> None:
    m = mixture(head, scoring="vmf", temperature=0.1)
    y = head.embed(torch.from_numpy(x)).double()
    w = head.prototypes.double()
    norm = w.norm(dim=1)
    wanted = vmf.responsibilities(y @ (w / norm[:, None]).T, norm / 0.1, P)
    torch.testing.assert_close(torch.softmax(m.scores(y), dim=1), wanted, atol=1e-7, rtol=1e-6)


def test_density_integrates_to_one(head: Head) -> None:
    """Points drawn evenly from the sphere: the mean density times the sphere's area is 1."""
    y = torch.nn.functional.normalize(torch.randn(400_000, P, generator=torch.Generator().manual_seed(2)), dim=1)
    area = 2 * math.pi ** (P / 2) / math.gamma(P / 2)
    for scoring in ("linear", "vmf"):
        for centred in (False, True):
            m = mixture(head, scoring=scoring, temperature=0.5, centred=centred)
            log_p = torch.logsumexp(m.scores(y).double(), dim=1) + m.offset
            # One term of log C_p is 5 % off at p = 5; a wrong weight or sign would be off by far more.
            assert float(log_p.exp().mean()) * area == pytest.approx(1, abs=0.08)


def test_equal_norms_make_vmf_and_linear_alike(x: np.ndarray) -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "mlp.weight": torch.randn(P, D, generator=draw),
        "mlp.bias": torch.zeros(P),
        "prototypes.weight_v": torch.randn(K, P, generator=draw),
        "prototypes.weight_g": torch.ones(K, 1),
    }
    plain = Head(HeadWeights(kind="dino", tensors=tensors))
    linear, cosine, curved = (mixture(plain, scoring=s, temperature=0.1) for s in ("linear", "cosine", "vmf"))
    first, second, third = use(plain, x, [linear, cosine, curved])
    for other in (second, third):
        np.testing.assert_allclose(other.responsibility, first.responsibility, atol=1e-6)
        np.testing.assert_allclose(other.log_likelihood, first.log_likelihood, atol=1e-4)


def test_fit_against_a_loop(head: Head, x: np.ndarray) -> None:
    m = mixture(head, scoring="vmf", temperature=0.1)
    (found,) = use(head, x, [m])
    told = fit(head, x, found.assigned, m)
    y = head.embed(torch.from_numpy(x)).double().numpy()
    w = head.prototypes.double().numpy()
    np.testing.assert_allclose(told.data_mean, y.mean(axis=0), atol=1e-9)
    for k in range(K):
        mine = y[found.assigned == k]
        if not len(mine):
            assert np.isnan([told.cosine[k], told.resultant[k], told.spread[k]]).all()
            continue
        mean = mine.mean(axis=0)
        assert told.resultant[k] == pytest.approx(np.linalg.norm(mean), abs=1e-9)
        cosine = w[k] @ mean / np.linalg.norm(w[k]) / np.linalg.norm(mean)
        assert told.cosine[k] == pytest.approx(cosine, abs=1e-9)
        if len(mine) > 1:  # the mean of <y_i, y_j> over pairs of different images
            pairs = [mine[i] @ mine[j] for i in range(len(mine)) for j in range(len(mine)) if i != j]
            assert told.spread[k] == pytest.approx(math.sqrt(max(0, np.mean(pairs))), abs=1e-7)


def test_precision_is_found_again() -> None:
    """Images drawn from vMF components: the spread of each cluster is A_p of its kappa."""
    from scipy.stats import vonmises_fisher

    kappa, dim = np.array([20.0, 60.0, 200.0]), 8
    directions = np.eye(dim)[:3]
    draws = [vonmises_fisher(directions[n], kappa[n]).rvs(3_000, random_state=n) for n in range(3)]
    y = np.concatenate(draws).astype(np.float32)
    tensors = {
        "mlp.weight": torch.eye(dim),
        "mlp.bias": torch.zeros(dim),
        "prototypes.weight_v": torch.from_numpy(directions).float(),
        "prototypes.weight_g": torch.from_numpy(kappa * 0.1).float()[:, None],
    }
    plain = Head(HeadWeights(kind="dino", tensors=tensors))
    m = mixture(plain, scoring="vmf", temperature=0.1)
    (found,) = use(plain, y, [m])
    told = fit(plain, y, found.assigned, m)
    np.testing.assert_allclose(told.spread, told.expected, atol=0.01)


def test_nearest_images(head: Head, x: np.ndarray) -> None:
    cosine, index = nearest_images(head, x, np.array([3, 0]), 4)
    y = head.embed(torch.from_numpy(x)).numpy()
    for row, k in enumerate((3, 0)):
        wanted = y @ (head.prototypes[k] / head.prototypes[k].norm()).numpy()
        np.testing.assert_array_equal(index[row], np.argsort(-wanted)[:4])
        np.testing.assert_allclose(cosine[row], np.sort(wanted)[::-1][:4], atol=1e-6)


def test_projection_against_svd() -> None:
    unit = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    places, share = projection(unit)
    values = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False) ** 2
    np.testing.assert_allclose(share, values[:2] / values.sum(), rtol=1e-4)
    np.testing.assert_allclose((places**2).sum(axis=0), values[:2], rtol=1e-4)


def test_formulation_is_never_guessed_in_silence() -> None:
    def of(kind: str, scoring: str | None = None) -> tuple[str, str]:
        return formulation(HeadWeights(kind=kind, tensors={}, scoring=scoring), "auto")

    assert of("dino")[0] == "linear"
    assert "not stated in the file" in of("dino")[1]
    assert of("dino", "vmf") == ("vmf", "formulation vmf: stated in the file")
    assert of("msn")[0] == "cosine"
    assert formulation(HeadWeights(kind="dino", tensors={}, scoring="vmf"), "linear")[0] == "linear"
    with pytest.raises(SettingsError, match="formulation"):
        formulation(HeadWeights(kind="dino", tensors={}), "vfm")


def test_bad_input(head: Head, x: np.ndarray) -> None:
    with pytest.raises(SettingsError, match="temperature"):
        mixture(head, scoring="linear", temperature=0)
    with pytest.raises(DataError, match="images"):
        use(head, x[:0], [mixture(head, scoring="linear", temperature=0.1)])
    bare = Head(HeadWeights(kind="dino", tensors={**_tensors(head)}))
    with pytest.raises(DataError, match="centre"):
        mixture(bare, scoring="linear", temperature=0.1, centred=True)


def _tensors(head: Head) -> dict[str, torch.Tensor]:
    return {"mlp.weight": torch.ones(P, D), "mlp.bias": torch.zeros(P), "prototypes.weight": head.prototypes}


def plain(rows: torch.Tensor) -> Head:
    """A head that takes features as they are, with these prototypes."""
    tensors = {"mlp.weight": torch.eye(rows.shape[1]), "prototypes.weight": rows}
    return Head(HeadWeights(kind="dino", tensors=tensors | {"mlp.bias": torch.zeros(rows.shape[1])}))


@pytest.mark.parametrize("scoring", ["linear", "cosine", "vmf"])
def test_of_equal_prototypes_the_first_is_taken(scoring: str) -> None:
    """Every prototype is there five times over, at places that matrix products treat in ways of their own."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(23, 61, generator=draw)
    copies = plain(rows.repeat(5, 1))
    x = torch.randn(301, 61, generator=draw).numpy()
    (once,) = use(plain(rows), x, [mixture(plain(rows), scoring=scoring, temperature=0.1)])
    m = mixture(copies, scoring=scoring, temperature=0.1)
    assert m.first.tolist() == [True] * 23 + [False] * 92
    assert m.kappa.reshape(5, 23).unique(dim=0).shape[0] == m.bias.reshape(5, 23).unique(dim=0).shape[0] == 1
    for block in (115, 7 * 115, 10**6):
        (found,) = use(copies, x, [m], block=block)
        np.testing.assert_array_equal(found.assigned, once.assigned)


def test_a_head_that_has_collapsed_to_one_row() -> None:
    head = plain(torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).repeat(300, 1))
    (found,) = use(head, np.eye(16, dtype=np.float32), [mixture(head, scoring="linear", temperature=0.07)])
    assert found.assigned.tolist() == [0] * 16


def test_a_head_that_has_nearly_collapsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 prototypes that float32 products cannot tell apart: the first product in float64 changes nothing."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 16, generator=draw) * (1 + 3e-7 * torch.randn(300, 16, generator=draw))
    head = plain(torch.cat([rows, rows]))
    x = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    m = mixture(head, scoring="linear", temperature=0.07)
    (found,) = use(head, x, [m])
    wide = m.scores(head.embed(torch.from_numpy(x)).double())
    assert found.assigned.tolist() == wide[:, :300].argmax(dim=1).tolist()  # no two of the 300 are within float64's
    monkeypatch.setattr("evaltk.prototypes.assignment.MANY", 10**9)
    assert use(head, x, [m])[0].assigned.tolist() == found.assigned.tolist()


def test_scores_that_are_off_by_their_rounding_assign_alike() -> None:
    """Prototypes in pairs that differ in the last bits: whatever products a processor makes, one of each pair wins."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 64, generator=draw)
    rows = torch.cat([rows, rows * (1 + 1e-7 * torch.randn(40, 64, generator=draw))])
    head = plain(rows)
    for scoring in ("linear", "vmf"):
        m = mixture(head, scoring=scoring, temperature=0.07)
        y = torch.nn.functional.normalize(torch.randn(200, 64, generator=draw), dim=1)
        scores = m.scores(y)
        wide = m.scores(y.double())
        assert float((scores - wide).abs().max()) <= margin(m)
        wanted = assign(m, y, scores)
        torch.testing.assert_close(wide.gather(1, wanted[:, None])[:, 0], wide.amax(dim=1), rtol=1e-13, atol=1e-13)
        for n in range(5):
            noise = torch.rand(scores.shape, generator=torch.Generator().manual_seed(n)) * 2 - 1
            assert torch.equal(assign(m, y, scores + 0.9 * margin(m) * noise), wanted)


def test_equal_images_are_nearest_in_their_order() -> None:
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    x = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    x[[7, 19, 31]] = rows[1].numpy()  # the nearest there can be, three times
    cosine, index = nearest_images(plain(rows), x, np.array([1, 0]), 4)
    assert index[0, :3].tolist() == [7, 19, 31]
    np.testing.assert_allclose(cosine[0, :3], 1, atol=1e-6)
    assert (np.diff(cosine) <= 0).all()


def test_projection_of_equal_loadings() -> None:
    """Both loadings of the widest direction are as large, of unlike signs: the first is the positive one."""
    places, _ = projection(np.array([[1, -1], [-1, 1], [0.1, 0.1], [-0.1, -0.1]], dtype=np.float32))
    assert places[0, 0] > 0
