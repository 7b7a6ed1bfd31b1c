import numpy as np
from numpy.typing import NDArray

def bracket_labels(
    characters: NDArray[np.uint8], real: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]: ...
def expected_within(
    characters: NDArray[np.uint8], real: NDArray[np.uint8], reach: int
) -> NDArray[np.uint8]: ...
def fresh_starts(characters: NDArray[np.uint8], kinds: NDArray[np.uint8]) -> NDArray[np.int64]: ...
