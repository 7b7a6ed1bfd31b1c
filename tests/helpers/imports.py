"""What a fresh Python imports."""

import subprocess
import sys

# None of these is needed before a net is made.
HEAVY = {"asyncio", "matplotlib", "multiprocessing", "numpy", "pandas", "pygments", "safetensors"}
HEAVY |= {"Bio", "jax", "pyarrow", "rich", "scipy", "sklearn", "torch", "unittest"}


def imported(code: str, *arguments: str) -> set[str]:
    """The modules that a fresh Python has imported after the code, which may end it."""
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv[1:] = {list(arguments)!r}\n{code}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())
