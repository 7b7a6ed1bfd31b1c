"""Lion, element by element: algorithm 2 of Chen et al. 2023, with the letters of the paper."""

from __future__ import annotations


def step(
    theta: list[float],
    g: list[float],
    m: list[float],
    *,
    eta: float,
    beta1: float,
    beta2: float,
    lam: float,
) -> tuple[list[float], list[float]]:
    """theta and m after one update with the gradient g."""
    new_theta, new_m = [], []
    for theta_i, g_i, m_i in zip(theta, g, m, strict=True):
        c = beta1 * m_i + (1.0 - beta1) * g_i
        sign = 1.0 if c > 0.0 else -1.0 if c < 0.0 else 0.0
        new_theta.append(theta_i - eta * (sign + lam * theta_i))
        new_m.append(beta2 * m_i + (1.0 - beta2) * g_i)
    return new_theta, new_m
