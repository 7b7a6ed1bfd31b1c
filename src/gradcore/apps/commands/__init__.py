"""The commands of `gradcore`, one topic per file; importing a file registers its commands."""

from . import bench as bench
from . import brackets as brackets
from . import diagnose as diagnose
from . import dna as dna
from . import info as info
from . import plot as plot
from . import prophage as prophage
from . import study_clipping as study_clipping
from . import study_flow as study_flow
from . import study_implicit as study_implicit
from . import study_skip as study_skip
from . import study_von_neumann as study_von_neumann
from . import synthetic as synthetic
from . import table as table
from .app import app as app
