"""Recurrent layers for JAX on gradcore's engine: a custom call of XLA instead of lax.scan.

outputs, state = gradcore.jax.rnn("lstm", params, x)

grad, jvp, vmap, jit, scan and checkpoint act on it as on any function of JAX, on the CPU.
"""

try:
    import jax as _jax  # noqa: F401
except ImportError as error:
    raise ImportError(
        "gradcore.jax needs JAX, at least 0.5: pip install 'gradcore[jax]', or pip install jax."
    ) from error

from ._rnn import rnn as rnn
