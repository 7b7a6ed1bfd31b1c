"""One BLAS thread for small matrices.

NumPy's BLAS threads spin for up to a tenth of a second behind a product, on the cores that the next
pass needs: at H = 128, T = 10,000 a training step took 23 % longer behind 1.4 ms of eigenvalues.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

__all__ = ["single_threaded"]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keeps BLAS to the calling thread, where threadpoolctl (extra `diagnose`) is installed."""
    controller = _controller(len(sys.modules))
    if controller is None:
        yield
        return
    with controller.limit(limits=1, user_api="blas"):
        yield


@lru_cache(maxsize=1)
def _controller(modules: int) -> Any:
    """What limits the BLAS libraries that are loaded; later modules may bring another."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()
