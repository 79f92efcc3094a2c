"""Fixed maps onto the domain of splines."""

import numpy as np
import pytest
import torch

from kanlib.nn.maps import InputMap, Normalisation

INTERVALS = ((-1.0, 1.0), (0.1, 0.7), (-1e3, 1e-3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("domain", [(-1.0, 1.0), (0.1, 0.7), (-3.0, 0.3)])
def test_input_map_takes_intervals_onto_the_domain(domain, dtype):
    mapping = InputMap(INTERVALS, domain, dtype=dtype)
    ends = torch.tensor(INTERVALS, dtype=dtype).T
    expected = torch.tensor(domain, dtype=dtype)[:, None].expand(2, 3)
    torch.testing.assert_close(mapping(ends), expected, rtol=0, atol=0)
    share = torch.linspace(-0.5, 1.5, 9, dtype=torch.float64)
    for p, interval in enumerate(INTERVALS):
        x = torch.zeros(9, 3, dtype=dtype)
        x[:, p] = torch.tensor(np.interp(0, [0, 1], interval) + share.numpy() * np.ptp(interval))
        y = np.interp(0, [0, 1], domain) + share * np.ptp(domain)
        torch.testing.assert_close(mapping(x)[:, p], y.to(dtype), rtol=0, atol=1e-6)
    steps = mapping(torch.ones(1, 3, dtype=dtype)) - mapping(torch.zeros(1, 3, dtype=dtype))
    torch.testing.assert_close(mapping.slope, steps[0], rtol=1e-3, atol=0)


def test_input_map_loses_nothing_by_casts():
    mapping = InputMap(INTERVALS, (0.0, 1.0), dtype=torch.float64)
    x = torch.randn(20, 3, dtype=torch.float64)
    y = mapping(x)
    torch.testing.assert_close(mapping.half().float().double()(x), y, rtol=0, atol=0)
    assert mapping.float()(x.float()).dtype == torch.float32


@pytest.mark.parametrize("domain", [(-1.0, 1.0), (0.0, 3.0)])
def test_normalisations_equal_their_formulas(domain):
    a, b = domain
    z = torch.linspace(-8, 8, 99, dtype=torch.float64)
    expected = a + (b - a) / (1 + np.exp(-z.numpy()))
    np.testing.assert_allclose(Normalisation("sigmoid", domain)(z), expected, rtol=0, atol=1e-14)
    expected = 0.5 * (a + b) + 0.5 * (b - a) * np.tanh(z.numpy())
    np.testing.assert_allclose(Normalisation("tanh", domain)(z), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "intervals", [[(1, 0)], [(0, 0)], [(0, float("inf"))], [(0, "x")], [(0,)], [0, 1], ["ab"]]
)
def test_input_map_refuses_bad_intervals(intervals):
    with pytest.raises(
        ValueError, match=r"intervals\[\d\] must be a finite pair \(a, b\) with a < b, got"
    ):
        InputMap(intervals, (0.0, 1.0))


@pytest.mark.parametrize("kind", ["relu", True, ""])
def test_normalisation_refuses_unknown_kinds(kind):
    with pytest.raises(ValueError, match=r"kind must be one of .*'sigmoid', 'tanh'\), got"):
        Normalisation(kind, (0.0, 1.0))
