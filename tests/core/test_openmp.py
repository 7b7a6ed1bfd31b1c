"""A process has one OpenMP runtime, whichever package was imported first, and many threads may call
at once.
"""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

SEEN = """
import json, sys
for name in sys.argv[1].split(","):
    __import__(name)
import numpy as np
import gradcore as gd
net = gd.Stack(gd.LSTM(2, 64), gd.Linear(64, 1))
x, y = np.zeros((300, 32, 2), np.float32), np.zeros((300, 32, 1), np.float32)
gd.value_and_grad(net, net.init(seed=0), x, y, loss="mse", threads=2)
if "torch" in sys.modules:
    import torch
    torch.set_num_threads(2)
    torch.randn(600, 600) @ torch.randn(600, 600)
if "sklearn" in sys.modules:
    from sklearn.cluster import KMeans
    KMeans(3, n_init=1, random_state=0).fit(np.random.default_rng(0).random((4000, 4)))
import threadpoolctl
found = [p for p in threadpoolctl.threadpool_info() if p["user_api"] == "openmp"]
print(json.dumps(sorted({p["filepath"] for p in found})))
"""


@pytest.mark.parametrize("order", ["torch,gradcore", "gradcore,torch"])
def test_torch_and_gradcore_share_one_runtime(order):
    need("torch", "threadpoolctl")
    runtimes = seen(order)
    assert len(runtimes) == 1, runtimes


@pytest.mark.parametrize("order", ["sklearn,gradcore", "gradcore,sklearn"])
def test_beside_scikit_learn_gradcore_adds_no_third_runtime(order):
    """The wheel of scikit-learn carries a libgomp with a name of its own, which no other package
    can share.
    """
    need("sklearn", "threadpoolctl")
    runtimes = seen(order)
    ours = [path for path in runtimes if "scikit_learn.libs" not in path]
    assert len(ours) == 1, runtimes


def seen(order):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SEEN, order],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(done.stdout.splitlines()[-1])


def need(*modules):
    for name in modules:
        if find_spec(name) is None:
            pytest.skip(f"needs {name}")
