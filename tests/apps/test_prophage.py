"""Prophages: regions, species, the scores, windows, and the command that holds species out."""

import json
from pathlib import Path

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.tasks.dna import synthetic, train
from gradcore.apps.tasks.dna.labels import complement
from gradcore.apps.tasks.dna.records import Gene, Record, read
from gradcore.apps.tasks.dna.windows import Windows
from gradcore.apps.tasks.material import material
from gradcore.apps.tasks.prophage import job, regions, scores
from gradcore.apps.tasks.staged import Pace, Stage
from places import SHARED_DATA

DATA = SHARED_DATA / "dna"
FILES = [
    "train/Neisseria_meningitidis_MC58.gb.gz",
    "train/Neisseria_meningitidis_Z2491.gb.gz",
    "train/Streptococcus_pyogenes_M1_GAS.gb.gz",
    "train/Brucella_melitensis_16M.gb.gz",
]


def record(length, found, *, name="r", organism="", source="here", seed=0):
    """A record of random bases with genes (start, stop, phage)."""
    letters = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(seed).integers(0, 4, length)]
    genes = tuple(Gene(((a, b),), 1, phage=phage) for a, b, phage in found)
    return Record(name, source, letters, genes, organism)


def test_regions_close_small_gaps_only():
    found = record(
        40_000,
        [
            (100, 500, True),
            (3_400, 3_500, True),
            (3_450, 3_600, True),
            (7_000, 8_000, False),
            (6_600, 6_900, True),
        ],
    )
    # 2,900 bases are a gap, 3,000 are not.
    assert regions.regions(found) == [(100, 3_600), (6_600, 6_900)]
    own = regions.labels(found)
    assert own.classes.sum() == 3_500 + 300
    assert own.counts.all()
    other = regions.reverse_labels(own)
    np.testing.assert_array_equal(other.classes[::-1], own.classes)


def test_species_are_told_by_the_organism_then_the_file():
    found = [
        record(10, [], name="a", organism="Escherichia coli K-12", source="one"),
        record(10, [], name="b", organism="Escherichia coli O157", source="two"),
        record(10, [], name="c", source="two"),
        record(10, [], name="d", source="three"),
    ]
    groups = regions.by_species(found)
    assert {name: [r.name for r in own] for name, own in groups.items()} == {
        "Escherichia coli": ["a", "b", "c"],
        "three": ["d"],
    }


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    positive = rng.random(60) < 0.3
    score = rng.integers(0, 8, 60).astype(float)
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a in score[positive] for b in score[~positive]
    ]
    assert scores.auroc(positive, score) == pytest.approx(np.mean(pairs))
    assert np.isnan(scores.auroc(np.ones(3, bool), np.zeros(3)))


def test_bins_and_averages():
    values = np.arange(25_500, dtype=float)
    np.testing.assert_allclose(scores.binned(values)[[0, 24, 25]], [499.5, 24_499.5, 25_249.5])
    assert len(scores.binned(values)) == len(scores.averaged(values)) == 26
    # 10,000 bases round the middle of a bin, cut off at the ends.
    assert scores.averaged(values)[10] == pytest.approx(np.mean(values[5_500:15_500]))
    assert scores.averaged(values)[0] == pytest.approx(np.mean(values[:5_500]))
    found = record(3_000, [(700, 1_499, True), (1_499, 2_500, True)])
    np.testing.assert_array_equal(scores.truth(found), [False, True, True])


def test_six_mers_count_both_strands():
    found = record(2_000, [(0, 900, True)], seed=1)
    weights = scores.kmer_weights([found])
    other = Record(
        "back", "here", complement(found.letters), (Gene(((1_100, 2_000),), -1, phage=True),)
    )
    np.testing.assert_allclose(scores.kmer_weights([other]), weights, atol=0.02)
    counts = np.zeros(2)
    text = found.letters.tobytes()
    back = complement(found.letters).tobytes()
    word = text[100:106]
    for i in range(1_995):
        counts[1 if i < 900 else 0] += text[i : i + 6] == word
        counts[1 if i >= 1_100 else 0] += back[i : i + 6] == word
    totals = np.array([2 * 1_095 + 5, 2 * 900 - 5 + 0]) + 4**6
    code = int("".join(str(b"ACGT".index(c)) for c in word), 4)
    expected = np.log((counts[1] + 1) / totals[1]) - np.log((counts[0] + 1) / totals[0])
    assert weights[code] == pytest.approx(expected, abs=0.01)
    assert weights[-1] == 0.0


@pytest.mark.skipif(not DATA.exists(), reason="the genomes of ../shared/data are not here")
def test_the_six_mer_baseline_on_real_chromosomes():
    pytest.importorskip("Bio", reason="reads GenBank: install gradcore[data]")
    groups = regions.by_species([r for name in FILES for r in read(DATA / name)])
    assert list(groups) == [
        "Neisseria meningitidis",
        "Streptococcus pyogenes",
        "Brucella melitensis",
    ]
    own = groups.pop("Streptococcus pyogenes")
    weights = scores.kmer_weights([r for others in groups.values() for r in others])
    truth = np.concatenate([scores.truth(r) for r in own])
    said = np.concatenate([scores.by_kmers(weights, r) for r in own])
    assert 0.03 < truth.mean() < 0.2
    assert scores.auroc(truth, said) > 0.68


def test_half_of_the_windows_hold_a_part_of_a_prophage():
    found = record(100_000, [(50_000, 51_000, True)])
    windows = Windows(
        [found],
        (Stage(1_000, 4, 1.0),),
        width=1,
        seed=3,
        bases=10**6,
        label=regions.labels,
        reverse=regions.reverse_labels,
        spots=[regions.regions(found)],
    )
    held = np.mean([windows.make(i, 0).y.any(axis=0) for i in range(100)])
    assert 0.42 < held < 0.6


TINY = train.Options(hidden=6, layers=1, stages=(Stage(400, 2, 0.5), Stage(2_000, 1, 0.5)))


def biased(name, seed, organism):
    """A synthetic genome with two prophages of bases that are mostly A and T."""
    made = synthetic.genome(name, 60_000, seed)
    rng = np.random.default_rng(seed)
    letters = made.letters.copy()
    genes = []
    for start in (9_000, 37_000):
        letters[start : start + 9_000] = np.frombuffer(b"ACGT", np.uint8)[
            rng.choice(4, 9_000, p=[0.4, 0.1, 0.1, 0.4])
        ]
        genes += [Gene(((a, a + 900),), 1, phage=True) for a in range(start, start + 9_000, 1_000)]
    return Record(name, f"{name}.fa", letters, tuple(genes), organism)


def test_a_net_learns_what_bases_tell():
    own = [biased("a", 1, "A a"), biased("b", 2, "B b")]
    options = train.Options(
        hidden=12, layers=1, pace=Pace(lr=1e-2, steady=0.1, warmup=10), stages=TINY.stages
    )
    trained = train.train(own, options, job.PROPHAGES, bases=150_000, quiet=True)
    assert trained.longest == 2_000
    judged = job.judge("C c", [biased("c", 3, "C c")], own, trained, options)
    assert judged.smooth > 0.9
    assert judged.kmers > 0.9
    assert judged.reach >= 0
    again = train.train(own, options, job.PROPHAGES, bases=150_000, quiet=True)
    np.testing.assert_array_equal(again.params.flat, trained.params.flat)
    with pytest.raises(gd.ArgumentError, match="a limit is needed"):
        train.train(own, options, job.PROPHAGES)


def written(folder, made):
    (folder / f"{made.name}.fa").write_text(f">{made.name}\n{made.letters.tobytes().decode()}\n")
    lines = ["##gff-version 3"]
    for i, gene in enumerate(made.genes):
        start, stop = gene.span
        marked = ";is_phage=1" if gene.phage else ""
        lines.append(f"{made.name}\tt\tCDS\t{start + 1}\t{stop}\t.\t+\t0\tID=c{i}{marked}")
    (folder / f"{made.name}.gff3").write_text("\n".join(lines) + "\n")


def test_the_command(tmp_path, monkeypatch):
    pytest.importorskip("typer", reason="the command line: install gradcore[cli]")
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    from typer.testing import CliRunner

    from gradcore.apps.commands import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "STAGES", TINY.stages)
    for name, seed in (("a", 1), ("b", 2)):
        written(tmp_path, biased(name, seed, ""))
    options = ["--hidden", "6", "--layers", "1", "--bases", "8000", "--json", "r.json"]
    result = CliRunner().invoke(app, ["train", "prophage", "a.fa", "b.fa", *options])
    assert result.exit_code == 0, result.output
    assert "mean AUROC: 6-mers" in result.stdout
    told = json.loads(Path("r.json").read_text())
    assert [one["name"] for one in told["species"]] == ["a.fa", "b.fa"]
    assert 0.0 <= told["species"][1]["auroc"]["smooth"] <= 1.0
    assert Path("prophage.png").stat().st_size > 10_000
    assert gd.load("prophage-a_fa.safetensors").metadata["task"] == "prophage"
    made = material("prophage-b_fa.safetensors", [Path("a.fa")], steps=12_000)
    assert made.batch.y.sum() == 3_000
    one = [
        "train",
        "prophage",
        "a.fa",
        "b.fa",
        "--species",
        "b.fa",
        "-q",
        "--out",
        "one.safetensors",
    ]
    result = CliRunner().invoke(app, [*one, *options])
    assert result.exit_code == 0, result.output
    assert [one["name"] for one in json.loads(Path("r.json").read_text())["species"]] == ["b.fa"]
    for wrong, message in (
        (["a.fa"], "two species with prophages are needed"),
        (["a.fa", "none.fa"], "cannot read none.fa"),
        (["a.fa", "b.fa", "--species", "x"], "no species 'x'"),
        (["a.fa", "b.fa", "--leave-out", "b"], "Regions by species: a.fa: 2"),
        (["a.fa", "b.fa", "--width", "2"], "width must be 1 or 3"),
        (["a.fa", "b.fa", "--json", "no/r.json"], "is not a folder"),
    ):
        result = CliRunner().invoke(app, ["train", "prophage", *wrong])
        assert result.exit_code == 2, (wrong, result.output)
        assert message in result.output
