"""Which file of this folder has which command, by the group that the command belongs to.

A file is imported when one of its commands is used, so that `gradcore --version` and `gradcore
info` need not load what trains a net.
"""

from __future__ import annotations

__all__ = ["PLACES"]

PLACES = {
    "gradcore": {
        "annotate": "dna",
        "bench": "bench",
        "cell": "cell",
        "check": "brackets",
        "diagnose": "diagnose",
        "info": "info",
        "plot": "plot",
        "predict": "table",
    },
    "train": {
        "adding": "synthetic",
        "brackets": "brackets",
        "copy": "synthetic",
        "csv": "table",
        "dna": "dna",
        "enhancer": "synthetic",
        "mqar": "synthetic",
        "prophage": "prophage",
    },
    "study": {
        "clipping": "study_clipping",
        "flow": "study_flow",
        "implicit": "study_implicit",
        "skip": "study_skip",
        "von-neumann": "study_von_neumann",
    },
}
