# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Index arithmetic over integer arrays: bracket structure of text.

Every function takes characters [n] uint8 and real [n] uint8, nonzero where a character is a bracket
that counts (not one inside a string or a comment), and holds no state. Loops run without the GIL.
"""
import numpy as np

cdef enum:
    NONE = 0
    BROKEN = 4


cdef inline unsigned char opened_by(unsigned char character) noexcept nogil:
    # The class a character opens: 1 '(', 2 '[', 3 '{'; 0 otherwise.
    if character == 40:
        return 1
    if character == 91:
        return 2
    if character == 123:
        return 3
    return 0


cdef inline unsigned char closed_by(unsigned char character) noexcept nogil:
    # The class a character closes.
    if character == 41:
        return 1
    if character == 93:
        return 2
    if character == 125:
        return 3
    return 0


cdef object check_pair(const unsigned char[::1] characters, const unsigned char[::1] real):
    if characters.shape[0] != real.shape[0]:
        raise ValueError(
            f"characters and real must have one length; got {characters.shape[0]} and {real.shape[0]}"
        )


def bracket_labels(const unsigned char[::1] characters not None, const unsigned char[::1] real not None):
    """Innermost open bracket after each character, by an exact stack.

    Returns (labels [n] uint8, distances [n] int64, fault). labels: 0 none, 1 '(', 2 '[', 3 '{', and 4
    (broken) from the first closing bracket that does not match, one on an empty stack included.
    distances: for each matched closing bracket its distance to the opening one, -1 elsewhere.
    fault: position of the first provable fault: that closing bracket; n if brackets are left open at
    the end; -1 if the text is balanced.
    """
    check_pair(characters, real)
    cdef Py_ssize_t n = characters.shape[0]
    labels_array = np.empty(n, dtype=np.uint8)
    distances_array = np.empty(n, dtype=np.int64)
    stack_array = np.empty(n, dtype=np.int64)
    cdef unsigned char[::1] labels = labels_array
    cdef long long[::1] distances = distances_array
    cdef long long[::1] stack = stack_array
    cdef Py_ssize_t t = 0, depth = 0, fault = -1
    cdef unsigned char top = NONE, closed
    with nogil:
        while t < n:
            distances[t] = -1
            if real[t]:
                if opened_by(characters[t]):
                    stack[depth] = t
                    depth += 1
                    top = opened_by(characters[t])
                else:
                    closed = closed_by(characters[t])
                    if closed:
                        if depth == 0 or closed != top:
                            fault = t
                            break
                        depth -= 1
                        distances[t] = t - stack[depth]
                        top = opened_by(characters[stack[depth - 1]]) if depth else NONE
            labels[t] = top
            t += 1
        while t < n:
            labels[t] = BROKEN
            distances[t] = -1
            t += 1
    if fault < 0 and depth > 0:
        fault = n
    return labels_array, distances_array, int(fault)


def expected_within(const unsigned char[::1] characters not None, const unsigned char[::1] real not None,
                    Py_ssize_t reach):
    """What an exact stack that sees only the last `reach` characters expects at each closing bracket.

    Returns [n] uint8: at a real closing bracket at t, the class of the innermost bracket that is open
    after t-1 and was opened at t-reach or later; 0 where there is none, and at every other character.
    """
    check_pair(characters, real)
    if reach < 0:
        raise ValueError(f"reach must not be negative; got {reach}")
    cdef Py_ssize_t n = characters.shape[0]
    expected_array = np.zeros(n, dtype=np.uint8)
    cdef unsigned char[::1] expected = expected_array
    cdef Py_ssize_t t, s, first, closed_since
    with nogil:
        for t in range(n):
            if not real[t] or not closed_by(characters[t]):
                continue
            first = t - reach if t > reach else 0
            closed_since = 0
            s = t - 1
            while s >= first:
                if real[s]:
                    if closed_by(characters[s]):
                        closed_since += 1
                    elif opened_by(characters[s]):
                        if closed_since == 0:
                            expected[t] = opened_by(characters[s])
                            break
                        closed_since -= 1
                s -= 1
    return expected_array


def fresh_starts(const unsigned char[::1] characters not None, const unsigned char[::1] kinds not None):
    """Line starts at which reading may begin without knowing what came before.

    kinds [n] uint8: 0 text of a string or comment, 1 code, 2 a bracket that counts. Returns the sorted
    positions [m] int64 of line starts outside every bracket, string and comment; position 0 is always
    one. The text must be balanced: stops before the first closing bracket that nothing opened.
    """
    check_pair(characters, kinds)
    cdef Py_ssize_t n = characters.shape[0]
    cdef Py_ssize_t t, found = 0, depth = 0
    starts_array = np.empty(n, dtype=np.int64)
    cdef long long[::1] starts = starts_array
    with nogil:
        for t in range(n):
            # A line whose first character and whose preceding newline are both inside a string or a
            # comment may continue it; one of the two in code proves that it does not.
            if t == 0 or (depth == 0 and characters[t - 1] == 10 and (kinds[t] or kinds[t - 1])):
                starts[found] = t
                found += 1
            if kinds[t] == 2:
                if opened_by(characters[t]):
                    depth += 1
                elif closed_by(characters[t]):
                    depth -= 1
                    if depth < 0:
                        break
    return starts_array[:found].copy()
