"""Genomes: reading, labels, frames, gene calling, scores, the job and its commands."""

import gzip
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.tasks import packed
from gradcore.apps.tasks.dna import annotation, genes, orfs, report, scores, synthetic, train
from gradcore.apps.tasks.dna.job import Job, run
from gradcore.apps.tasks.dna.labels import (
    CLASSES,
    classes_of,
    complement,
    labels,
    reverse_labels,
    tokens,
)
from gradcore.apps.tasks.dna.records import Gene, Record, read, read_gff3
from gradcore.apps.tasks.dna.windows import Windows
from gradcore.apps.tasks.material import material
from gradcore.apps.tasks.staged import Stage
from places import SHARED_DATA

DATA = SHARED_DATA / "dna"
real = pytest.mark.skipif(not DATA.exists(), reason="the genomes of ../shared/data are not here")


def letters(text):
    return np.frombuffer(text.encode(), np.uint8)


def record(text, found=(), name="r"):
    return Record(name, "here", letters(text), tuple(found))


GENBANK = """LOCUS       TEST                      30 bp    DNA     linear   UNK 01-JAN-1980
DEFINITION  a test.
ACCESSION   TEST
VERSION     TEST.1
FEATURES             Location/Qualifiers
     source          1..30
     CDS             join(1..4,6..10)
                     /product="slips"
     CDS             complement(<13..18)
     CDS             20..25
                     /pseudo
     CDS             complement(join(26..27,29..30))
                     /codon_start=2
                     /is_phage="1"
ORIGIN
        1 atgaaattta gggcccgggt ttaaaccctt
//
"""


def test_genbank(tmp_path):
    pytest.importorskip("Bio", reason="reads GenBank: install gradcore[data]")
    for name, write in (
        ("a.gbk", lambda path: path.write_text(GENBANK)),
        ("a.gbk.gz", lambda path: path.write_bytes(gzip.compress(GENBANK.encode()))),
    ):
        write(tmp_path / name)
        (found,) = read(tmp_path / name)
        assert found.name == "TEST.1"
        assert found.letters.tobytes() == b"ATGAAATTTAGGGCCCGGGTTTAAACCCTT"
        slips, partial, pseudo, back = found.genes
        assert (slips.parts, slips.strand) == (((0, 4), (5, 10)), 1)
        assert (partial.parts, partial.strand) == (((12, 18),), -1)
        assert (partial.start_known, partial.stop_known) == (True, False)
        assert pseudo.pseudo
        assert (back.parts, back.strand, back.phase) == (((28, 30), (25, 27)), -1, 1)
        assert back.phage
        known = labels(found)
        # The frame goes on over the slip; base 5 is in neither part.
        assert known.classes[:10].tolist() == [1, 2, 3, 1, 0, 2, 3, 1, 2, 3]
        assert known.classes[12:18].tolist() == [6, 5, 4, 6, 5, 4]
        assert not known.counts[19:25].any()
        # Read from the other end, one base before the first whole codon.
        assert known.classes[25:30].tolist() == [6, 5, 0, 4, 6]


def test_fasta_and_gff3(tmp_path):
    fasta = tmp_path / "a.fa"
    fasta.write_text(">one first\nACGT\nacgu\n\n>two\nNNRYK\n")
    one, two = read(fasta)
    assert (one.name, one.letters.tobytes(), one.genes) == ("one", b"ACGTACGT", None)
    assert two.letters.tobytes() == b"NNRYK"
    with pytest.raises(gd.ArgumentError, match="there are no genes to learn or to score"):
        labels(one)
    (tmp_path / "a.gff3").write_text(
        "##gff-version 3\n"
        "one\tx\tgene\t1\t8\t.\t+\t.\tID=g\n"
        "one\tx\tCDS\t1\t2\t.\t+\t0\tID=c;Note=a%3Bb\n"
        "one\tx\tCDS\t4\t6\t.\t+\t1\tID=c\n"
        "two\tx\tCDS\t2\t4\t.\t-\t.\tID=d;pseudo=true\n"
        "##FASTA\nnot read\n"
    )
    one, two = read(fasta)
    assert one.genes == (Gene(((0, 2), (3, 6)), 1),)
    assert two.genes == (Gene(((1, 4),), -1, pseudo=True),)
    assert read(fasta, annotation=tmp_path / "a.gff3")[0].genes == one.genes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ACGT\n", r"a\.fa, line 1: neither GenBank \(LOCUS\) nor FASTA"),
        ("", r"line 1: neither GenBank"),
        (">a\nAC!T\n", r"a\.fa, record a, line 2: '!' in the sequence"),
        (">a\nACGT\n>b\n", r"record b: it has no sequence"),
        (">a\nACGT\n>\nAC\n", r"line 3: a record without a name"),
    ],
)
def test_broken_fasta(tmp_path, text, message):
    (tmp_path / "a.fa").write_text(text)
    with pytest.raises(gd.ArgumentError, match=message):
        read(tmp_path / "a.fa")


def test_short_lines_take_no_more_than_their_letters(tmp_path):
    # As a list of lines they took 61 times the size of the file.
    (tmp_path / "a.fa").write_text(">a\n" + "A\n" * 200_000)
    tracemalloc.start()
    (one,) = read(tmp_path / "a.fa")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(one) == 200_000
    assert most < 2_000_000


def test_packed_genomes_must_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "LARGEST", 100_000)
    path = tmp_path / "a.fa.gz"
    path.write_bytes(gzip.compress(b">a\n" + b"A" * 1_000_000 + b"\n"))
    with pytest.raises(gd.ArgumentError, match=r"a\.fa\.gz has .* bytes and unpacks to more than"):
        read(path)
    path.write_bytes(gzip.compress(b">a\n" + b"A" * 90_000 + b"\n"))
    assert len(read(path)[0]) == 90_000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("//\n", "", r"record TEST, line \d+: the file ends within the record"),
        ("join(1..4,6..10)", "join(1..4,6..", "record TEST, line"),
        ("20..25", "20..95", r"the CDS at .* is not within the 30 bases of the record"),
        ("atgaaattta", "atgaa?ttta", r"record TEST, line \d+: '\?' in the sequence"),
    ],
)
def test_broken_genbank(tmp_path, old, new, message):
    pytest.importorskip("Bio", reason="reads GenBank: install gradcore[data]")
    (tmp_path / "a.gbk").write_text(GENBANK.replace(old, new))
    with pytest.raises(gd.ArgumentError, match=message):
        read(tmp_path / "a.gbk")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one\tx\tCDS\t1\t2", "line 2: GFF3 has 9 columns, separated by tabs; got 5"),
        ("one\tx\tCDS\t1\t2\t.\t.\t0\tID=c", "line 2: the strand of a CDS must be"),
        ("one\tx\tCDS\t3\t2\t.\t+\t0\tID=c", "line 2: start, end and phase must be"),
        ("one\tx\tCDS\t1\t2\t.\t+\t3\tID=c", "line 2: start, end and phase must be"),
        ("one\tx\tCDS\ta\t2\t.\t+\t0\tID=c", "line 2: start, end and phase must be"),
    ],
)
def test_broken_gff3(tmp_path, line, message):
    (tmp_path / "a.gff3").write_text(f"##gff-version 3\n{line}\n")
    with pytest.raises(gd.ArgumentError, match=message):
        read_gff3(tmp_path / "a.gff3")


def test_what_does_not_belong_together(tmp_path):
    (tmp_path / "a.fa").write_text(">one\nACGT\n")
    gff = tmp_path / "a.gff3"
    gff.write_text("one\tx\tCDS\t1\t9\t.\t+\t0\tID=c\n")
    with pytest.raises(gd.ArgumentError, match=r"a gene at 1\.\.9 ends beyond one, which has 4"):
        read(tmp_path / "a.fa")
    gff.write_text("b\tx\tCDS\t1\t2\t.\t+\t0\tID=c\nc\tx\tCDS\t1\t2\t.\t+\t0\tID=c\n")
    with pytest.raises(gd.ArgumentError, match="has no genes of one"):
        read(tmp_path / "a.fa")
    with pytest.raises(gd.ArgumentError, match="cannot read"):
        read(tmp_path / "missing.fa")
    (tmp_path / "cut.fa.gz").write_bytes(gzip.compress(b">a\nACGT\n" * 1000)[:40])
    with pytest.raises(gd.ArgumentError, match="cannot read"):
        read(tmp_path / "cut.fa.gz")


# ---- labels and strands


def test_overlaps_do_not_count_and_the_other_strand_is_the_same():
    found = record("ACGTACGTACGT", [Gene(((0, 6),), 1), Gene(((3, 9),), -1)])
    known = labels(found)
    assert known.counts.tolist() == [True] * 3 + [False] * 3 + [True] * 6
    other = reverse_labels(known)
    again = labels(record("ACGTACGTACGT", [Gene(((6, 12),), -1), Gene(((3, 9),), 1)]))
    np.testing.assert_array_equal(other.counts, again.counts)
    np.testing.assert_array_equal(other.classes[other.counts], again.classes[again.counts])
    np.testing.assert_array_equal(reverse_labels(other).classes, known.classes)


def test_tokens_and_complements():
    text = letters("ACGTNRacgt")
    assert tokens(text, 1).tolist() == [0, 1, 2, 3, 4, 4, 0, 1, 2, 3]
    three = tokens(text, 3)
    assert three[1] == 0 * 16 + 1 * 4 + 2
    assert three[[0, 3, 4, 5, 6, 9]].tolist() == [64] * 6
    assert complement(letters("AACGRN")).tobytes() == b"NYCGTT"
    np.testing.assert_array_equal(complement(complement(letters("ACGTRYN"))), letters("ACGTRYN"))


# ---- frames and genes


def brute_frames(text, least):
    """Stop to stop, by looking at every codon of both strands."""
    pair = dict(zip("ACGT", "TGCA", strict=True))
    made = []
    for strand, read_ in ((1, text), (-1, "".join(pair[c] for c in text[::-1]))):
        for offset in range(3):
            begin = offset
            for at in range(offset, len(read_) - 2, 3):
                if read_[at : at + 3] in ("TAA", "TAG", "TGA"):
                    made.append((strand, begin, at + 3, True))
                    begin = at + 3
            whole = offset + (len(read_) - offset) // 3 * 3
            made.append((strand, begin, whole, False))
    return {one for one in made if one[2] - one[1] >= least}


@pytest.mark.parametrize("length", [0, 2, 3, 50, 400, 401, 402])
def test_frames_are_those_of_every_codon(length):
    rng = np.random.default_rng(length)
    text = "".join(rng.choice(list("ACGT"), length))
    found = orfs.frames(letters(text), 9)
    assert {(f.strand, f.first, f.stop, f.closed) for f in found} == brute_frames(text, 9)
    assert len(found) == len(brute_frames(text, 9))
    for frame in found:
        own = letters(text) if frame.strand == 1 else complement(letters(text))
        for start in frame.starts:
            assert own[start : start + 3].tobytes() in (b"ATG", b"GTG", b"TTG")
            assert (start - frame.first) % 3 == 0


@real
@pytest.mark.parametrize(
    ("file", "name", "accuracy", "correlation"),
    [
        ("test/lambda_NC_001416.gbk.gz", "NC_001416.1", 0.864, 0.722),
        ("test/Enterobacteria_phage_NC_028901.gbk.gz", "NC_028901.1", 0.859, 0.537),
        ("validation/Acinetobacter_phage_NC_049494.gbk.gz", "NC_049494.1", 0.912, 0.592),
        ("validation/Yersinia_pestis_KIM.gb.gz", "NC_004838", 0.869, 0.679),
    ],
)
def test_the_orf_rule_has_its_known_scores(file, name, accuracy, correlation):
    """The table of the data's README, which counts every base."""
    pytest.importorskip("Bio", reason="reads GenBank: install gradcore[data]")
    (found,) = (r for r in read(DATA / file) if r.name == name)
    known = labels(found)
    known.counts[:] = True
    guess = classes_of(orfs.longest_orfs(found.letters), len(found))
    own = scores.score(known, guess)
    assert own.accuracy == pytest.approx(accuracy, abs=6e-4)
    assert own.matthews == pytest.approx(correlation, abs=6e-4)


def certain(classes):
    log_p = np.full((len(classes), len(CLASSES)), -4.0, np.float32)
    log_p[np.arange(len(classes)), classes] = -0.05
    return log_p


def test_genes_are_called_where_the_classes_are_certain():
    found = synthetic.genome("a", 30_000, 3)
    called = genes.decode(found.letters, certain(labels(found).classes))
    own = scores.gene_score(found.genes, called)
    assert own.known == len(found.genes)
    assert own.stops == own.known
    assert own.whole >= 0.9 * own.known
    assert own.false == 0
    # The other strand has the same genes.
    other = Record("b", "here", complement(found.letters), None)
    back = genes.decode(other.letters, certain(reverse_labels(labels(found)).classes))
    turned = {
        Gene(((len(found) - b, len(found) - a),), -g.strand) for g in back for a, b in g.parts
    }
    assert turned == set(called)


def test_no_evidence_calls_no_gene():
    found = synthetic.genome("a", 10_000, 4)
    assert genes.decode(found.letters, certain(np.zeros(len(found), np.int8))) == []
    flat = np.full((len(found), 7), -np.log(7), np.float32)
    assert genes.decode(found.letters, flat) == []


def test_scores():
    truth = labels(record("A" * 20, [Gene(((2, 8),), 1), Gene(((10, 16),), -1)]))
    perfect = scores.score(truth, truth.classes)
    assert (perfect.accuracy, perfect.frames, perfect.matthews, perfect.bases) == (1, 1, 1, 20)
    shifted = classes_of([Gene(((3, 9),), 1), Gene(((10, 16),), -1)], 20)
    own = scores.score(truth, shifted)
    assert own.accuracy == 18 / 20
    assert own.frames == 13 / 20
    a, b = truth.classes > 0, shifted > 0
    assert own.matthews == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert scores.matthews(a, np.zeros(20, bool)) == 0
    known = [Gene(((0, 9),), 1), Gene(((20, 29),), -1), Gene(((40, 49),), 1, pseudo=True)]
    called = [Gene(((3, 9),), 1), Gene(((20, 29),), -1), Gene(((60, 69),), 1), Gene(((43, 49),), 1)]
    assert scores.gene_score(known, called) == scores.GeneScore(2, 2, 1, 4, 1)


# ---- synthetic genomes, windows


def test_a_synthetic_genome_is_one():
    one, again, other = (synthetic.genome("a", 20_000, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.letters, again.letters)
    assert other.letters.tobytes() != one.letters.tobytes()
    assert {gene.strand for gene in one.genes} == {1, -1}
    for gene in one.genes:
        (start, stop), own = gene.span, one.letters
        read_ = own[start:stop] if gene.strand == 1 else complement(own[start:stop])
        codons = [read_[i : i + 3].tobytes() for i in range(0, len(read_), 3)]
        assert codons[0] in (b"ATG", b"GTG", b"TTG")
        assert codons[-1] in (b"TAA", b"TAG", b"TGA")
        assert not {b"TAA", b"TAG", b"TGA"} & set(codons[:-1])
    coding = (labels(one).classes > 0).mean()
    assert 0.7 < coding < 0.95


def test_windows_are_pieces_of_either_strand():
    found = synthetic.genome("a", 5_000, 5)
    source = Windows([found], (Stage(200, 3, 1.0),), width=1, seed=1, bases=10**6)
    known, strands = labels(found), set()
    forward = tokens(found.letters, 1)
    back = tokens(complement(found.letters), 1)
    other = reverse_labels(known)
    for index in range(6):
        batch = source.make(index, 0)
        for b in range(3):
            for seen, own in ((forward, known), (back, other)):
                views = np.lib.stride_tricks.sliding_window_view(seen, 200)
                at = np.flatnonzero((views == batch.x[:, b]).all(axis=1))
                if len(at):
                    strands.add(seen is forward)
                    np.testing.assert_array_equal(batch.y[:, b], own.classes[at[0] : at[0] + 200])
                    np.testing.assert_array_equal(
                        batch.weight[:, b], own.counts[at[0] : at[0] + 200]
                    )
    assert strands == {True, False}
    np.testing.assert_array_equal(source.make(2, 0).x, source.make(2, 0).x)
    short = Windows(
        [synthetic.genome("a", 100, 6)], (Stage(9_000, 2, 1.0),), width=3, seed=1, bases=1
    )
    batch = short.make(0, 0)
    assert batch.lengths is not None or batch.x.shape[0] < 9_000


# ---- the net


TINY = train.Options(hidden=6, layers=1, stages=(Stage(300, 2, 0.5), Stage(900, 1, 0.5)))


def test_a_training_of_so_many_bases_is_the_same_every_time(tmp_path):
    own = synthetic.genomes(2, 3_000, 0, "train")
    first = train.train(own, TINY, bases=6_000, quiet=True)
    again = train.train(own, TINY, bases=6_000, quiet=True, run=tmp_path / "run")
    np.testing.assert_array_equal(first.params.flat, again.params.flat)
    assert first.longest == 900
    assert 6_000 <= first.bases < 8_000
    with pytest.raises(gd.ArgumentError, match="a limit is needed"):
        train.train(own, TINY)
    with pytest.raises(gd.ArgumentError, match="must be a record to train on"):
        train.train([], TINY, bases=1)


def test_a_training_goes_on_with_the_same_genes_only(tmp_path):
    """The bases are compared by what describes the windows, the genes by their labels."""
    own = synthetic.genomes(2, 3_000, 0, "train")

    def go_on(records):
        how = {"quiet": True, "run": tmp_path / "run", "resume": True}
        return train.train(records, TINY, bases=6_000, **how)

    whole = train.train(own, TINY, bases=6_000, quiet=True)
    go_on(own)
    moved = replace(own[0], genes=own[0].genes[1:])
    with pytest.raises(gd.ArgumentError, match="numbers in labels of the data differ"):
        go_on([moved, own[1]])
    letters = own[0].letters[::-1].copy()
    with pytest.raises(gd.ArgumentError, match="records was"):
        go_on([replace(own[0], letters=letters), own[1]])
    np.testing.assert_array_equal(go_on(own).params.flat, whole.params.flat)


@pytest.mark.parametrize("both", [True, False])
def test_options_make_their_nets(both):
    net = train.build(
        train.Options(
            cell="lstm", hidden=8, layers=3, forward=not both, residual=True, skip=4, width=1
        )
    )
    assert [layer.bidirectional for layer in net.recurrent] == [both] * 3
    assert (
        [layer.residual for layer in net.recurrent] == [both, True, True]
        if both
        else [False, True, True]
    )
    assert net.recurrent[0].skip.lag == 4
    assert train.width_of(net) == 1
    for wrong, message in (
        ({"cell": "tcn"}, "cell must be"),
        ({"width": 2}, "width must be 1 or 3"),
    ):
        with pytest.raises(gd.ArgumentError, match=message):
            train.build(train.Options(**wrong))
    with pytest.raises(gd.ArgumentError, match="does not read bases"):
        train.width_of(gd.Stack(gd.GRU(3, 4), gd.Linear(4, 7)))


def test_predictions_treat_both_strands_alike_and_pieces_are_joined(monkeypatch):
    net = train.build(TINY)
    params = net.init(seed=0)
    found = synthetic.genome("a", 3_000, 7)
    log_p = train.predict(net, params, found.letters)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, rtol=1e-5)
    other = train.predict(net, params, complement(found.letters))
    np.testing.assert_allclose(other[::-1][:, [0, 4, 5, 6, 1, 2, 3]], log_p, atol=1e-4)
    monkeypatch.setattr(train, "PIECE", 1_000)
    monkeypatch.setattr(train, "BESIDE", 300)
    pieces = train.predict(net, params, found.letters)
    np.testing.assert_allclose(pieces, log_p, atol=1e-3)


def test_gff3_comes_back(tmp_path):
    found = synthetic.genome("a b;c", 9_000, 8)
    called = genes.decode(found.letters, certain(labels(found).classes))
    one = annotation.Annotation(found, certain(labels(found).classes), tuple(called))
    annotation.write_gff3(tmp_path / "a.gff3", [one])
    text = (tmp_path / "a.gff3").read_text()
    assert text.startswith(f"##gff-version 3\n##sequence-region a%20b%3Bc 1 {len(found)}\n")
    back = read_gff3(tmp_path / "a.gff3")
    assert [(g.parts, g.strand) for g in back["a b;c"]] == [(g.parts, g.strand) for g in called]
    assert one.confidence(called[0]) == pytest.approx(np.exp(-0.05), abs=0.02)


def test_the_job_on_generated_genomes(tmp_path, monkeypatch):
    monkeypatch.setattr("gradcore.apps.tasks.dna.job.SYNTHETIC", (4_000, 2, 1, 1))
    result = run(Job(bases=8_000, checkpoint=tmp_path / "n.safetensors", options=TINY, quiet=True))
    assert [one.part for one in result.judged] == ["validate", "test"]
    told = report.lines(result)
    assert "synthetic genomes" in told[0]
    assert "mean Matthews correlation" in told[-1]
    read_ = report.as_json(result)
    assert read_["synthetic"] is True
    assert 0 <= read_["records"][1]["orf"]["accuracy"] <= 1
    assert gd.load(tmp_path / "n.safetensors").net == result.trained.net
    with pytest.raises(gd.ArgumentError, match="give --train FILE as well"):
        run(Job(test=[tmp_path / "x.gbk"]))


def test_the_commands(tmp_path, monkeypatch):
    pytest.importorskip("typer", reason="the command line: install gradcore[cli]")
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    from typer.testing import CliRunner

    from gradcore.apps.commands import app

    monkeypatch.chdir(tmp_path)
    for kind, seed in (("train", 1), ("held", 2)):
        made = synthetic.genome(kind, 6_000, seed)
        Path(f"{kind}.fa").write_text(f">{kind}\n{made.letters.tobytes().decode()}\n")
        annotation.write_gff3(
            Path(f"{kind}.gff3"),
            [annotation.Annotation(made, certain(labels(made).classes), made.genes)],
        )
    options = ["--hidden", "6", "--layers", "1", "--bases", "20000", "-q"]
    files = ["--train", "train.fa", "--test", "held.fa"]
    written = ["--json", "r.json", "--gff", "out.gff3", "--out", "net.safetensors"]
    result = CliRunner().invoke(app, ["train", "dna", *files, *options, *written])
    assert result.exit_code == 0, result.output
    assert "ORF rule" in result.stdout
    assert json.loads(Path("r.json").read_text())["records"][0]["name"] == "held"
    assert Path("net.png").stat().st_size > 10_000
    assert Path("out.gff3").read_text().startswith("##gff-version 3")
    result = CliRunner().invoke(
        app, ["annotate", "held.fa", "--checkpoint", "net.safetensors", "--out", "b.gff3"]
    )
    assert result.exit_code == 0, result.output
    assert Path("b.gff3").read_text() == Path("out.gff3").read_text()
    pytest.importorskip("scipy", reason="diagnoses: install gradcore[diagnose]")
    made = material("net.safetensors", [Path("held.fa")], steps=500)
    assert made.batch.x.shape == made.batch.y.shape == (500, 1)
    assert made.told == "the first 500 bases of held"
    for wrong, message in (
        (["train", "dna", "--test", "held.fa"], "there is nothing to train on"),
        (["train", "dna", "--train", "none.fa"], "cannot read none.fa"),
        (["train", "dna", "--resume"], "--resume needs --run"),
        (["train", "dna", "--width", "2"], "width must be 1 or 3"),
        (["annotate", "held.fa"], "dna.safetensors"),
        (["annotate", "held.fa", "--checkpoint", "held.fa"], "held.fa"),
    ):
        result = CliRunner().invoke(app, wrong)
        assert result.exit_code == 2, wrong
        assert message in result.stderr
