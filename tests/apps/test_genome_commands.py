"""The commands on genomes in the forms that users have: annotate, train dna, train prophage."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line: install gradcore[cli]")
pytest.importorskip("Bio", reason="reads GenBank: install gradcore[data]")

import numpy as np
from typer.testing import CliRunner

import gradcore as gd
from genome_files import fasta, genbank, gene_text, gff3
from gradcore.apps.commands import app
from gradcore.apps.tasks.dna import codes, job, synthetic, train
from gradcore.apps.tasks.dna.annotation import Annotation, write_gff3
from gradcore.apps.tasks.dna.genome import Gene, Record
from gradcore.apps.tasks.dna.records import read_gff3
from gradcore.apps.tasks.prophage import regions

SMALL = ["--hidden", "6", "--layers", "1", "--bases", "3000"]


def invoke(*words):
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes an empty folder the working directory and puts an untrained net into it."""
    monkeypatch.chdir(tmp_path)
    options = train.Options(hidden=6, layers=1)
    net = train.build(options)
    gd.save("dna.safetensors", net, net.init(seed=0), task="dna")
    return tmp_path


def text_of(record):
    return record.letters.tobytes().decode()


def written(name, *, code="", seed=1, length=6_000):
    """Writes a synthetic genome as NAME.fa and NAME.gff3."""
    made = synthetic.genome(name, length, seed)
    Path(f"{name}.fa").write_text(fasta(**{name: text_of(made)}))
    rows = []
    for i, gene in enumerate(made.genes):
        (start, stop), sign = gene.span, "+" if gene.strand == 1 else "-"
        rows.append(f"{name} x CDS {start + 1} {stop} . {sign} 0 ID=g{i}{code}")
    Path(f"{name}.gff3").write_text(gff3(*rows))
    return made


# ---- annotate


def test_annotate_reads_no_annotation(folder):
    made = synthetic.genome("new", 4_000, 1)
    Path("NEW.fa").write_text(fasta(new=text_of(made), second=text_of(made)[:900]))
    results = []
    for _ in range(3):
        result = invoke("annotate", "NEW.fa", "--out", "NEW.gff3")
        assert result.exit_code == 0, result.output
        results.append(Path("NEW.gff3").read_text())
    assert results[0] == results[1] == results[2]
    # Broken entries and entries of other sequences are ignored.
    for other in (gff3("elsewhere x CDS 1 90 . + 0 ID=a"), "##gff-version 3\nbroken\n"):
        Path("NEW.gff3").write_text(other)
        assert invoke("annotate", "NEW.fa", "--out", "NEW.gff3").exit_code == 0
        assert Path("NEW.gff3").read_text() == results[0]


@pytest.mark.parametrize("topology", ["linear", "circular"])
def test_annotate_of_genbank_looks_at_the_sequence_alone(folder, topology):
    made = synthetic.genome("new", 3_000, 1)
    Path("a.fa").write_text(fasta(**{"TEST.1": text_of(made)}))
    Path("a.gbk").write_text(
        genbank([("370..60",), ("1..9000",), ("junk",)], text_of(made), topology=topology)
    )
    for name in ("a.fa", "a.gbk"):
        result = invoke("annotate", name, "--out", f"{name}.gff3")
        assert result.exit_code == 0, result.output
        assert "left out" not in result.output
    one, other = Path("a.fa.gff3").read_text(), Path("a.gbk.gff3").read_text()
    if topology == "linear":
        assert one == other
    else:
        assert "TEST.1\tgradcore\tregion\t1\t" in other
        assert "Is_circular=true" in other
        assert ", a circle" in result.output


def test_annotate_of_prokka_files(folder):
    made = synthetic.genome("c", 3_000, 1)
    Path("a.fa").write_text(fasta(c=text_of(made)))
    rows = gff3("##sequence-region c 1 3000", "c x CDS 1 90 . + 0 ID=a")
    Path("p.gff").write_text(rows + "##FASTA\n" + fasta(c=text_of(made)))
    for name in ("a.fa", "p.gff"):
        result = invoke("annotate", name, "--out", "out.gff3", "-q")
        assert result.exit_code == 0, result.output
        Path("out.gff3").rename(f"{name}.out")
    assert Path("a.fa.out").read_text() == Path("p.gff.out").read_text()
    result = invoke("annotate", "p.gff", "--out", "p.gff")
    assert result.exit_code == 2
    assert "p.gff: it is one of the files to read" in result.output
    Path("q.gff").write_text(rows)
    result = invoke("annotate", "q.gff")
    assert result.exit_code == 2
    assert "q.gff has features and no sequence" in result.output


class Certain:
    """Stands for a net that is certain of every open reading frame of the plus strand."""

    @staticmethod
    def predict(net, params, letters, **how):
        log_p = np.full((len(letters), 7), -6.0, np.float32)
        log_p[:, 1:4] = -1.1
        return log_p


def test_annotate_uses_the_genetic_code_of_the_net_or_the_one_it_is_told(folder, monkeypatch):
    monkeypatch.setattr("gradcore.apps.tasks.dna.annotation.predict", Certain.predict)
    body = gene_text(60, stop="TGA", seed=1) + gene_text(60, seed=2)[3:]
    letters = "TAACTAACTAA" + body + "TTAGTTAGTTAG"
    Path("m.fa").write_text(fasta(m=letters))
    whole, early = (11, 11 + len(body)), (11, 11 + 180)

    def spans(*options):
        result = invoke("annotate", "m.fa", "--out", "o.gff3", *options)
        assert result.exit_code == 0, result.output
        return {gene.span for gene in read_gff3("o.gff3")["m"] if gene.strand == 1}, result.output

    found, told = spans()
    assert early in found
    assert whole not in found
    assert "genes are called with genetic code 11, that of the net's training" in told
    found, told = spans("--genetic-code", "4")
    assert whole in found
    assert "that of the net's training" not in told
    assert "transl_table=4" in Path("o.gff3").read_text()
    net = train.build(train.Options(hidden=6, layers=1))
    gd.save("dna.safetensors", net, net.init(seed=0), task="dna", genetic_code=4)
    found, told = spans()
    assert whole in found
    assert "genes are called with genetic code 4, that of the net's training" in told
    found, _ = spans("--genetic-code", "11")
    assert early in found
    result = invoke("annotate", "m.fa", "--genetic-code", "99")
    assert result.exit_code == 2
    assert "there is no genetic code 99. The NCBI's translation tables are 1, 2, 3" in result.output


def test_annotate_refuses_two_records_of_one_name(folder):
    for name in ("a", "b"):
        Path(f"{name}.fa").write_text(fasta(contig_1="ACGT" * 50))
    result = invoke("annotate", "a.fa", "b.fa")
    assert result.exit_code == 2
    assert "two records are called contig_1, one of a.fa and one of b.fa" in result.output


# ---- train dna


def test_a_training_on_contigs_with_genes_and_without(folder):
    one = written("one")
    two = synthetic.genome("two", 3_000, 2)
    Path("one.fa").write_text(fasta(one=text_of(one), two=text_of(two)))
    written("held", seed=3)
    Path("held.fa").write_text(Path("held.fa").read_text() + fasta(none=text_of(two)))
    words = ["--train", "one.fa", "--test", "held.fa", "--json", "r.json", *SMALL]
    result = invoke("train", "dna", *words)
    assert result.exit_code == 0, result.output
    assert "one.gff3 does not name two of one.fa: assumed to have no genes" in result.output
    assert "genetic code 11, that of bacteria, is used for one, held" in result.output
    told = json.loads(Path("r.json").read_text())
    assert [record["name"] for record in told["records"]] == ["held", "none"]
    assert told["records"][1]["genes"]["known"] == 0
    assert told["genetic_code"] == 11
    assert gd.load("dna.safetensors").metadata["genetic_code"] == 11


def test_a_training_tells_its_genetic_code_to_annotate(folder):
    written("four", code=";transl_table=4")
    written("eleven", code=";transl_table=11", seed=2, length=3_000)
    files = ["--train", "four.fa", "--train", "eleven.fa", "--test", "eleven.fa"]
    result = invoke("train", "dna", *files, "--json", "r.json", *SMALL)
    assert result.exit_code == 0, result.output
    assert "annotate will use 4 unless --genetic-code names another" in result.output
    assert "is used for" not in result.output
    metadata = gd.load("dna.safetensors").metadata
    assert (metadata["genetic_code"], metadata["records"][0]["genetic_code"]) == (4, 11)
    assert job.code_of_net(metadata).number == 4
    written("silent")
    result = invoke("train", "dna", "--train", "silent.fa", "--genetic-code", "25", *SMALL)
    assert result.exit_code == 0, result.output
    assert gd.load("dna.safetensors").metadata["genetic_code"] == 25
    rows = Path("silent.gff3").read_text().replace("ID=g0", "ID=g0;transl_table=4")
    Path("silent.gff3").write_text(rows.replace("ID=g1", "ID=g1;transl_table=1", 1))
    result = invoke("train", "dna", "--train", "silent.fa", *SMALL)
    assert "silent has CDS of the genetic codes" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train", "alone.fa"], "there are no genes to learn or to score"),
        (["--train", "empty.fa"], "there is nothing to learn, as no record has a gene"),
        (
            ["--train", "a.fa", "--test", "a.fa", "--only", "b"],
            "no record to score is called 'b'",
        ),
        (["--train", "a.fa", "--only", "a"], "There are: none; give --validate or --test"),
        (["--train", "a.fa", "--genetic-code", "7"], "there is no genetic code 7"),
        (["--train", "a.gff3"], "a.gff3 has features and no sequence"),
        (["--train", "protein.fa"], "The letters are those of a protein"),
    ],
)
def test_what_cannot_be_trained_on_is_told(folder, words, message):
    written("a")
    written("alone")
    Path("alone.gff3").unlink()
    written("empty")
    Path("empty.gff3").write_text("##gff-version 3\n##sequence-region empty 1 6000\n")
    Path("protein.fa").write_text(">p\nMKVLEEFPQRSTW\n")
    result = invoke("train", "dna", *words, *SMALL)
    assert result.exit_code == 2
    assert message in result.output


def test_a_circle_is_trained_on_judged_and_annotated(folder):
    made = synthetic.genome("c", 6_000, 3)
    gene = max(made.genes, key=lambda gene: gene.bases)
    by = (gene.span[0] + gene.span[1]) // 2
    text, length = text_of(made), len(made)
    text = text[by:] + text[:by]
    features = []
    for one in made.genes:
        first, last = (one.span[0] - by) % length + 1, (one.span[1] - by - 1) % length + 1
        place = f"{first}..{last}" if first < last else f"join({first}..{length},1..{last})"
        features.append((place if one.strand == 1 else f"complement({place})", "transl_table=11"))
    Path("c.gbk").write_text(genbank(features, text, topology="circular"))
    files = ["--train", "c.gbk", "--test", "c.gbk", "--json", "r.json", "--gff", "o.gff3"]
    result = invoke("train", "dna", *files, *SMALL)
    assert result.exit_code == 0, result.output
    assert "left out" not in result.output
    (told,) = json.loads(Path("r.json").read_text())["records"]
    assert told["genes"]["known"] == len(made.genes)
    before = Path("o.gff3").read_text()
    assert invoke("annotate", "c.gbk", "--out", "again.gff3").exit_code == 0
    assert Path("again.gff3").read_text() == before


# ---- train prophage


def test_a_prophage_over_the_origin_is_not_the_whole_chromosome():
    letters = np.frombuffer(b"ACGT" * 5_000, np.uint8)
    over = Gene(((19_000, 20_000), (0, 500)), 1, phage=True)
    near = Gene(((2_000, 2_900),), -1, phage=True)
    found = Record("c", "here", letters, (over, near), circular=True)
    assert regions.regions(found) == [(0, 2_900), (19_000, 20_000)]
    assert regions.labels(found).classes.sum() == 3_900
    # A gap over the origin is closed like any other, but only on a circular sequence.
    apart = (Gene(((18_000, 18_500),), 1, phage=True), Gene(((1_000, 1_900),), 1, phage=True))
    found = Record("c", "here", letters, apart, circular=True)
    assert regions.regions(found) == [(0, 1_900), (18_000, 20_000)]
    found = Record("c", "here", letters, apart)
    assert regions.regions(found) == [(1_000, 1_900), (18_000, 18_500)]
    apart = (Gene(((16_000, 16_500),), 1, phage=True), Gene(((1_000, 1_900),), 1, phage=True))
    found = Record("c", "here", letters, apart, circular=True)
    assert regions.regions(found) == [(1_000, 1_900), (16_000, 16_500)]


def test_prophages_need_names_that_are_there(folder):
    for name, seed in (("a", 1), ("b", 2)):
        made = written(name, seed=seed)
        marked = Path(f"{name}.gff3").read_text().replace("ID=g1", "is_phage=1;ID=g1")
        Path(f"{name}.gff3").write_text(marked)
        assert len(made.genes) > 2
    result = invoke("train", "prophage", "a.fa", "b.fa", "--leave-out", "c", *SMALL)
    assert result.exit_code == 2
    assert "no record is called 'c' (--leave-out). There are: a, b." in result.output


def test_files_of_gradcore_are_known_as_such(folder):
    made = written("a")
    log_p = np.zeros((len(made), 7), np.float32)
    write_gff3(Path("a.gff3"), [Annotation(made, log_p, made.genes)])
    result = invoke("train", "dna", "--train", "a.fa", *SMALL)
    assert result.exit_code == 0, result.output
    assert "a.gff3 was written by gradcore: its genes are those that a net called" in result.output


@pytest.mark.parametrize(
    ("words", "purpose"),
    [
        (["annotate", "a.gbk"], "a.gbk: reading GenBank and EMBL files needs Biopython"),
        (["annotate", "a.fa", "--genetic-code", "4"], "genetic code 4 needs Biopython"),
        (["train", "dna", "--train", "four.fa", *SMALL], "genetic code 4 needs Biopython"),
    ],
)
def test_without_biopython_the_remedy_is_told(folder, monkeypatch, words, purpose):
    made = written("a")
    written("four", code=";transl_table=4")
    Path("a.gbk").write_text(genbank([("1..90",)], text_of(made)))
    monkeypatch.setitem(sys.modules, "Bio", None)
    codes.genetic_code.cache_clear()
    result = invoke(*words)
    assert result.exit_code == 2
    assert f"{purpose}, which is not installed. Run: pip install 'gradcore[data]'" in result.output
    # FASTA and GFF3 are read without this package.
    result = invoke("annotate", "a.fa", "--out", "o.gff3")
    assert result.exit_code == 0, result.output
