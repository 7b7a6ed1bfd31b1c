"""`gradcore train dna` and `gradcore annotate`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

import gradcore as gd

from ..._base.output import write_text
from ..curves import can_draw
from ..settings import Resources, Safeguards, option
from ..tasks.dna import annotation, job, report, train
from ..tasks.dna.codes import genetic_code
from ..tasks.dna.genome import Record
from ..tasks.dna.records import files_beside, read_sequences
from .app import app, check_outputs, errors, fail, interrupted, say, show, train_app
from .options import Output, Quiet, check_run, spread, teller

QUICK, GENERATED, USUAL = 3.0, 1.5, 20.0


def bases_option() -> Any:
    """The option for training on a fixed number of bases."""
    return option(
        None,
        "Train on this many bases instead of for some minutes; the same seed then gives a net "
        "with the same bits.",
        min=1,
    )


@dataclass(frozen=True)
class Genomes:
    """The genomes to train on and to score, and how long to train."""

    train_files: list[Path] | None = option(
        None,
        "Genomes to train on: GenBank, EMBL, GFF3 with ##FASTA, or FASTA with a GFF3 or GTF file "
        "of the same name beside it, plain or gzip. Without any: synthetic genomes.",
        "--train",
        metavar="FILE",
        show_default=False,
    )
    validate: list[Path] | None = option(
        None, "Genomes to score for choosing settings.", metavar="FILE", show_default=False
    )
    test: list[Path] | None = option(
        None, "Genomes to score at the end.", metavar="FILE", show_default=False
    )
    only: list[str] | None = option(
        None,
        "Score only these records of --validate and --test.",
        metavar="NAME",
        show_default=False,
    )
    minutes: float | None = option(
        None, "Minutes of training.", min=0.02, show_default="20; 1.5 on synthetic genomes"
    )
    quick: bool = option(False, "Three minutes of training.", "--quick")
    bases: int | None = bases_option()
    genetic_code: int | None = option(
        None,
        "Genetic code (NCBI translation table) of genomes whose CDS name none by transl_table.",
        metavar="NUMBER",
        show_default="11",
    )

    def files(self) -> list[Path]:
        """The files that are read, and those that may have the genes of a FASTA file."""
        named = [
            *(self.train_files or ()),
            *(self.validate or ()),
            *(self.test or ()),
        ]
        return [*named, *(other for path in named for other in files_beside(path))]

    @property
    def time(self) -> float:
        """The minutes of training, which depend on the other options if not given."""
        if self.minutes is not None:
            return self.minutes
        return QUICK if self.quick else USUAL if self.train_files else GENERATED


@dataclass(frozen=True)
class DnaOutput(Output):
    """The files that `train dna` writes."""

    out: Path = option(
        Path("dna.safetensors"), "Where the trained net is saved.", "--out", "--checkpoint"
    )
    plot: Path | None = option(
        None,
        "Where a picture of the genomes goes. Default: beside the net, if matplotlib is installed.",
        metavar="FILE",
    )
    gff: Path | None = option(None, "Write the genes called in --test as GFF3.", metavar="FILE")


@train_app.command()
@spread
def dna(
    genomes: Genomes,
    options: train.Options,
    output: DnaOutput,
    safeguards: Safeguards,
    resources: Resources,
    quiet: Quiet = False,
) -> None:
    """Train a net to annotate genomes, base by base: non-coding, or strand and codon position.

    Gradients are exact over windows of up to 50,000 bases. The command prints accuracy and Matthews
    correlation on held-out genomes, for the net and for the longest-ORF rule
    (and Prodigal, if pyrodigal is installed), and how many genes are found. Bases of overlapping
    genes, of pseudogenes and of genes whose frame is uncertain are left out of training and scores;
    the command names what it cannot read.

    Ctrl-C saves the current net and exits with 130; --run FOLDER --resume continues the training.
    """
    with errors():
        check_run(output.run, output.resume, safeguards.watch)
        output.check(output.gff, inputs=genomes.files())
        wanted = job.Job(
            genomes.train_files or (),
            genomes.validate or (),
            genomes.test or (),
            genomes.only or (),
            genomes.time,
            genomes.bases,
            output.out,
            output.run,
            output.resume,
            replace(options, safeguards=safeguards, resources=resources),
            quiet,
            genomes.genetic_code,
        )
        result = job.run(wanted, teller(quiet))
        if result is None:
            interrupted(output.out, output.run)
        show("\n".join(report.lines(result)))
        saved = [output.out]
        if output.json_file is not None:
            write_text(output.json_file, json.dumps(report.as_json(result), indent=1) + "\n")
            saved.append(output.json_file)
        tested = [one.annotation for one in result.judged if one.part == "test"]
        if output.gff is not None:
            annotation.write_gff3(output.gff, tested)
            saved.append(output.gff)
        if can_draw() and result.judged:
            report.draw(output.picture, result.judged[::-1])
            saved.append(output.picture)
        say(f"saved {', '.join(map(str, saved))}")


@dataclass(frozen=True)
class Calling(Resources):
    """Genetic code, threads and memory that `annotate` may use."""

    genetic_code: int | None = option(
        None,
        "Genetic code (NCBI translation table) that decides which codons begin and end genes.",
        metavar="NUMBER",
        show_default="that of the genomes that the net was trained on",
    )
    memory: str | None = option(None, "Memory budget, such as 64MB.")


@app.command()
@spread
def annotate(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FASTA",
            help="FASTA, GenBank, EMBL, or GFF3 with ##FASTA; plain or gzip. Genes in them are "
            "ignored.",
        ),
    ],
    checkpoint: Annotated[Path, typer.Option(help="A net of `gradcore train dna`.")] = Path(
        "dna.safetensors"
    ),
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the GFF3 goes.", show_default="FASTA.gff3"),
    ] = None,
    calling: Calling,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
) -> None:
    """Find the genes of a genome with a trained net, as GFF3 for any genome browser.

    The score of a gene is the mean probability of its bases' classes.
    """
    with errors():
        tell = teller(quiet)
        target = out or Path(f"{files[0].name.removesuffix('.gz')}.gff3")
        check_outputs(target, inputs=(checkpoint, *files))
        if not checkpoint.exists():
            fail(
                f"cannot read {checkpoint}: no such file. Train a net by `gradcore train dna`, or "
                "name one by --checkpoint."
            )
        loaded = gd.load(checkpoint)
        train.width_of(loaded.net)
        code = job.code_of_net(loaded.metadata)
        if calling.genetic_code is not None:
            code = genetic_code(calling.genetic_code)
        records = [record for path in files for record in read_sequences(path, say=tell)]
        _check_names(records)
        if calling.genetic_code is None:
            tell(f"genes are called with genetic code {code.number}, that of the net's training")
        found = []
        for record in records:
            one = annotation.annotate(
                loaded.net,
                loaded.params,
                record,
                code=code,
                threads=calling.threads,
                memory=calling.memory,
            )
            found.append(one)
            circle = ", a circle" if record.circular else ""
            tell(f"{record.name}: {len(one.genes):,} genes in {len(record):,} bases{circle}")
        annotation.write_gff3(target, found)
        tell(f"saved {target}")


def _check_names(records: list[Record]) -> None:
    """Fails for two records of one name, because GFF3 distinguishes records by name only."""
    known: dict[str, Record] = {}
    for record in records:
        other = known.setdefault(record.name, record)
        if other is not record:
            fail(
                f"two records are called {record.name}, one of {other.source} and one of "
                f"{record.source}: GFF3 cannot distinguish their genes. Rename one, or annotate "
                "the files one by one."
            )
