"""`gradcore train prophage`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from ..._base.output import write_text
from ..curves import can_draw
from ..exit_codes import EXIT_INTERRUPTED
from ..settings import Resources, option
from ..tasks.dna.records import files_beside
from ..tasks.prophage import job, report
from .app import errors, say, show, train_app
from .dna import bases_option
from .options import Output, Quiet, spread, teller


@dataclass(frozen=True)
class Chromosomes:
    """Records and species to leave out, the length of the training and its learning rate."""

    leave_out: list[str] | None = option(
        None, "Do not use this record.", metavar="NAME", show_default=False
    )
    species: list[str] | None = option(
        None,
        "Hold out only this species; may be given several times.",
        metavar="NAME",
        show_default="each with prophages in turn",
    )
    minutes: float = option(3.0, "Minutes of training for each held-out species.", min=0.02)
    bases: int | None = bases_option()
    lr: float = option(2e-3, "Learning rate at its largest.", min=0.0)


@dataclass(frozen=True)
class ProphageOutput(Output):
    """The files that `train prophage` writes; it keeps no folder of a run."""

    out: Path = option(
        Path("prophage.safetensors"),
        "Where the nets are saved: the species held out is added to each name.",
        "--out",
        "--checkpoint",
    )
    run: Path | None = None
    resume: bool = False
    plot: Path | None = option(
        None,
        "Where a picture of the chromosomes goes. Default: beside the nets, if matplotlib "
        "is installed.",
        metavar="FILE",
    )


@train_app.command()
@spread
def prophage(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="Bacterial chromosomes of at least two species, as GenBank, EMBL, GFF3 with "
            "##FASTA, or FASTA with a GFF3 file of the same name beside it; genes of prophages are "
            "marked is_phage.",
        ),
    ],
    chromosomes: Chromosomes,
    options: job.Options,
    output: ProphageOutput,
    safeguards: job.Unwatched,
    resources: Resources,
    quiet: Quiet = False,
) -> None:
    """Find prophages, regions of a chromosome that came from a phage, in species never trained on.

    Gradients are exact over windows of 100,000 bases. Each species is scored with a net that was
    trained on the others. The command prints the AUROC over bins of 1,000 bases, that of 6-mer
    frequencies, and how far back the net's gradient reaches.

    Ctrl-C saves the current net and exits with 130.
    """
    with errors():
        output.check(inputs=[*files, *(other for path in files for other in files_beside(path))])
        options = replace(
            options,
            stages=job.STAGES,
            pace=replace(options.pace, lr=chromosomes.lr),
            safeguards=safeguards,
            resources=resources,
        )
        wanted = job.Job(
            files,
            chromosomes.leave_out or (),
            chromosomes.species or (),
            chromosomes.minutes,
            chromosomes.bases,
            output.out,
            options,
            quiet,
        )
        result = job.run(wanted, teller(quiet))
        if result is None:
            say("interrupted; the nets so far were saved, the last one unfinished")
            raise typer.Exit(EXIT_INTERRUPTED)
        show("\n".join(report.lines(result)))
        saved = [wanted.net_of(one.species) for one in result.judged]
        if output.json_file is not None:
            write_text(output.json_file, json.dumps(report.as_json(result), indent=1) + "\n")
            saved.append(output.json_file)
        if can_draw():
            report.draw(output.picture, result)
            saved.append(output.picture)
        say(f"saved {', '.join(map(str, saved))}")
