"""The pinwheel data of the study: the published points to the last digit that is known, and the Bayes classifier."""

import numpy as np
import pytest

pytest.importorskip("threadpoolctl")

from studies import _pinwheel


def close(found, expected, digits):
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.5001 * 10.0**-digits)


def test_points_are_the_published_ones():
    x, y, moved = _pinwheel.pinwheel()
    assert x.shape == (1000, 2) and np.bincount(y).tolist() == [200] * 5
    assert "".join(map(str, y[:20])) == "12214444340401113100"
    assert moved[:10].tolist() == [993, 859, 298, 553, 672, 971, 27, 231, 306, 706]
    assert len(set(moved.tolist())) == 100 and np.bincount(y[moved]).tolist() == [16, 25, 22, 17, 20]
    close(x[:3], [(-2.2257809748, -8.9195032209), (-10.7408218183, 7.4078008334), (-11.3857064248, 1.9005342729)], 10)
    close(x[[993, 859]], [(4.3428686084, 5.588984285), (8.4272357122, 13.929766955)], 9)
    close(x.sum(axis=0), (163.8101329135, 119.3600998897), 8)
    close((x**2).sum(axis=0), (60272.5990434, 59471.6645777), 6)


def test_clean_points():
    class Nobody(np.random.RandomState):
        def normal(self, *_):
            return clean[self.where]

        def permutation(self, n):
            order = super().permutation(n)
            self.where = order[:100]
            return order

    stream = np.random.RandomState(1)
    clean = np.zeros((1000, 2))
    x, _, moved = _pinwheel.pinwheel(stream, Nobody(0))
    assert (x[moved] == 0).all()
    kept = np.setdiff1d(np.arange(1000), moved)
    published = _pinwheel.pinwheel()[0]
    assert (x[kept] == published[kept]).all()
    radius = np.hypot(*x[kept].T) / 10
    assert abs(radius.mean() - 1) < 0.05 and 0.25 < radius.std() < 0.35


def test_the_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    _pinwheel.pinwheel()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_bayes_loss_and_accuracy():
    x, y, _ = _pinwheel.pinwheel()
    log_p = _pinwheel.log_posterior(x)
    assert _pinwheel.loss(log_p, y) == pytest.approx(0.234, abs=5e-4)
    assert np.mean(log_p.argmax(1) == y) == 0.923


def test_posterior_is_calibrated_on_fresh_points():
    x, y = _pinwheel.fresh(2000, 7)
    p = np.exp(_pinwheel.log_posterior(x))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    right = p.argmax(1) == y
    assert abs(right.mean() - p.max(axis=1).mean()) < 4 * right.std() / np.sqrt(len(y))
    for low, high in ((0.2, 0.6), (0.6, 0.98), (0.98, 1.01)):  # in each range of confidence
        part = (p.max(axis=1) >= low) & (p.max(axis=1) < high)
        expected, spread = p.max(axis=1)[part].mean(), np.sqrt((p * (1 - p)).max(axis=1)[part].mean() / part.sum())
        assert abs(right[part].mean() - expected) < 4 * spread + 1e-3


def test_posterior_does_not_depend_on_the_grid():
    x = _pinwheel.fresh(250, 3)[0]
    coarse, fine = (np.exp(_pinwheel.log_posterior(x, grid)) for grid in (2048, 8192))
    assert np.median(np.abs(coarse - fine)) < 1e-5 and np.abs(coarse - fine).max() < 0.02
