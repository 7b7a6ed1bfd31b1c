"""Writes the golden files of this folder: problems and their solutions by PyTorch in double
precision.

    python tests/golden/make.py

They are used on machines without PyTorch. Each file holds the description of the net and of the
loss as JSON, every array of the problem, and every array of the solution.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "helpers")]

from golden_cases import CASES, arrays_of, problem_of  # noqa: E402
from torch_loop import by_torch_loop  # noqa: E402


def contents(name):
    """The contents of the file of one case."""
    problem = problem_of(CASES[name])
    return arrays_of(problem, by_torch_loop(problem)) | {"case": np.array(json.dumps(CASES[name]))}


def main():
    for name in CASES:
        np.savez_compressed(HERE / f"{name}.npz", **contents(name))


if __name__ == "__main__":
    main()
