"""Which genes are called, for genetic codes, unknown bases and circular sequences, and how calls
are scored.
"""

import numpy as np
import pytest

import gradcore as gd
from genome_files import bases, complemented, gene_text
from gradcore.apps.tasks.dna import annotation, genes, orfs, scores, synthetic, train
from gradcore.apps.tasks.dna.codes import BACTERIAL, genetic_code
from gradcore.apps.tasks.dna.labels import CLASSES, classes_of, complement, labels
from gradcore.apps.tasks.dna.records import Gene, Record, read, read_gff3
from places import SHARED_DATA

DATA = SHARED_DATA / "dna"


def letters(text):
    return np.frombuffer(text.encode(), np.uint8)


def certain(classes):
    log_p = np.full((len(classes), len(CLASSES)), -4.0, np.float32)
    log_p[np.arange(len(classes)), classes] = -0.05
    return log_p


def called(text, known, **how):
    """The genes that are called where a net is certain of the known ones."""
    return genes.decode(letters(text), certain(classes_of(known, len(text))), **how)


def codons(numbers):
    return {"ACGT"[n // 16] + "ACGT"[n // 4 % 4] + "ACGT"[n % 4] for n in numbers}


# ---- genetic codes


@pytest.mark.parametrize(
    ("number", "starts", "stops"),
    [
        (11, {"ATG", "GTG", "TTG"}, {"TAA", "TAG", "TGA"}),
        (4, {"ATG", "GTG", "TTG"}, {"TAA", "TAG"}),
        (25, {"ATG", "GTG", "TTG"}, {"TAA", "TAG"}),
        (1, {"ATG", "CTG", "TTG"}, {"TAA", "TAG", "TGA"}),
        (2, {"ATG", "ATA", "ATC", "ATT", "GTG"}, {"TAA", "TAG", "AGA", "AGG"}),
        (6, {"ATG"}, {"TGA"}),
    ],
)
def test_a_genetic_code_is_its_stops_and_starts(number, starts, stops):
    if number != 11:
        pytest.importorskip("Bio", reason="reads genetic codes: install gradcore[data]")
    code = genetic_code(number)
    assert (code.number, codons(code.starts), codons(code.stops)) == (number, starts, stops)


@pytest.mark.parametrize("number", [0, 7, 8, 17, 20, 34, -1])
def test_genetic_codes_that_do_not_exist(number):
    pytest.importorskip("Bio", reason="reads genetic codes: install gradcore[data]")
    with pytest.raises(gd.ArgumentError, match=f"no genetic code {number}. .*1, 2, 3, 4, 5, 6, 9"):
        genetic_code(number)


@pytest.mark.parametrize("strand", [1, -1])
def test_the_code_decides_where_genes_end(strand):
    """A gene of Mycoplasma, where TGA is an amino acid: one gene by genetic code 4, an early stop
    by code 11.
    """
    pytest.importorskip("Bio", reason="reads genetic codes: install gradcore[data]")
    body = gene_text(120, stop="TGA", seed=1) + gene_text(80, seed=2)[3:]
    text = bases(50, 1) + "TAATTAATTAA" + body + bases(40, 2)
    text = text if strand == 1 else complemented(text)
    start = 61 if strand == 1 else len(text) - 61 - len(body)
    whole = Gene(((start, start + len(body)),), strand)
    short = 360
    early = (
        (start, start + short) if strand == 1 else (start + len(body) - short, start + len(body))
    )
    four = genetic_code(4)
    assert called(text, [whole], code=four) == [whole]
    assert whole in orfs.longest_orfs(letters(text), 300, code=four)
    assert whole not in orfs.longest_orfs(letters(text), 300)
    assert Gene((early,), strand) in orfs.longest_orfs(letters(text), 300)
    assert whole not in called(text, [whole])


# ---- unknown bases


GENE = gene_text(100, seed=4)
BEFORE, BEHIND = "TAACTAACTAA" + bases(20, 8), bases(30, 9) + "TTAGTTAGTTAG"


def holds_unknown(text, found):
    return [gene for gene in found for a, b in gene.parts if "N" in text[a:b].upper()]


@pytest.mark.parametrize("strand", [1, -1])
@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("length", [3, 4, 5, 30, 299, 2_000])
def test_no_gene_is_called_over_a_run_of_unknown_bases(length, shift, strand):
    cut = 150 + shift
    text = BEFORE + GENE[:cut] + "N" * length + GENE[cut:] + BEHIND
    text = text if strand == 1 else complemented(text)
    begin = len(BEFORE) if strand == 1 else len(BEHIND)
    known = Gene(((begin, begin + 300 + length),), strand)
    found = called(text, [known])
    assert holds_unknown(text, found) == []
    assert found
    assert holds_unknown(text, orfs.longest_orfs(letters(text), 60)) == []
    for frame in orfs.frames(letters(text), 30):
        assert holds_unknown(text, [frame.gene(frame.first, len(text))]) == []


def test_the_pieces_beside_unknown_bases_have_an_end_that_is_not_known():
    text = BEFORE + GENE[:150] + "N" * 60 + GENE[150:] + BEHIND
    at = len(BEFORE)
    known = Gene(((at, at + 360),), 1)
    assert called(text, [known]) == [
        Gene(((at, at + 150),), 1, stop_known=False),
        Gene(((at + 210, at + 360),), 1, start_known=False),
    ]
    other = complemented(text)
    end = len(other) - at
    assert called(other, [Gene(((end - 360, end),), -1)]) == [
        Gene(((end - 360, end - 210),), -1, start_known=False),
        Gene(((end - 150, end),), -1, stop_known=False),
    ]


@pytest.mark.parametrize("letter", ["N", "R", "n", "-"])
def test_a_single_unknown_base_does_not_end_a_gene(letter):
    text = BEFORE + GENE[:151] + letter + GENE[152:] + BEHIND
    known = Gene(((len(BEFORE), len(BEFORE) + 300),), 1)
    assert called(text, [known]) == [known]


def test_a_codon_that_is_a_stop_whatever_it_stands_for_is_one():
    text = BEFORE + GENE[:150] + "TAR" + GENE[153:] + BEHIND
    stops = {f.stop for f in orfs.frames(letters(text), 60) if f.strand == 1 and f.closed}
    assert len(BEFORE) + 153 in stops
    text = BEFORE + GENE[:150] + "TAY" + GENE[153:] + BEHIND
    stops = {f.stop for f in orfs.frames(letters(text), 60) if f.strand == 1 and f.closed}
    assert len(BEFORE) + 153 not in stops


def test_a_known_gene_over_unknown_bases_keeps_its_labels():
    text = BEFORE + GENE[:150] + "N" * 60 + GENE[150:] + BEHIND
    known = Gene(((len(BEFORE), len(BEFORE) + 360),), 1)
    own = labels(Record("r", "here", letters(text), (known,)))
    assert own.classes[len(BEFORE) : len(BEFORE) + 360].tolist() == [1, 2, 3] * 120
    assert own.counts.all()


def test_nothing_but_unknown_bases():
    text = letters("N" * 3_000)
    assert orfs.frames(text, 90) == []
    flat = np.full((3_000, 7), -np.log(7), np.float32)
    flat[:, 1:4] += 1.5
    assert genes.decode(text, flat) == []
    assert genes.decode(text, flat, circular=True) == []


# ---- circles


def turned(text, by):
    return text[by:] + text[:by]


@pytest.mark.parametrize("strand", [1, -1])
@pytest.mark.parametrize("by", [1, 45, 160, 161, 162, 329, 331])
def test_a_gene_over_the_origin_is_called_with_its_start_and_stop(by, strand):
    linear = BEFORE + GENE + BEHIND
    linear = linear if strand == 1 else complemented(linear)
    length = len(linear)
    begin = len(BEFORE) if strand == 1 else len(BEHIND)
    first, last = (begin - by) % length, (begin + 300 - by) % length or length
    upward = ((first, last),) if first < last else ((first, length), (0, last))
    known = Gene(upward[::strand], strand)
    text = turned(linear, by)
    found = called(text, [known], circular=True)
    assert found == [known]
    assert known in orfs.longest_orfs(letters(text), 200, circular=True)
    assert scores.gene_score([known], found) == scores.GeneScore(1, 1, 1, 1, 0)
    if len(upward) == 2:
        without = called(text, [known])
        assert known not in without
        assert scores.gene_score([known], without).whole == 0


@pytest.mark.parametrize("length", [1, 2, 3, 4, 100, 301, 302, 303])
def test_frames_of_a_circle_do_not_depend_on_where_it_is_cut(length):
    text = bases(length, length)
    reference = None
    for by in (0, 1, length // 3, length - 1):
        places = set()
        for frame in orfs.frames(letters(turned(text, by)), 15, circular=True):
            gene = frame.gene(frame.first, length)
            covered = tuple(
                tuple((base + by) % length for base in range(a, b)) for a, b in gene.parts
            )
            read_ = sum(covered if frame.strand == 1 else covered[::-1], ())
            assert len(read_) == frame.stop - frame.first <= length
            places.add((frame.strand, frame.closed, frozenset(read_), len(frame.starts)))
        reference = places if reference is None else reference
        assert places == reference
    if length > 100:
        assert reference


def test_called_genes_of_a_circle_are_those_of_the_line_wherever_it_is_cut():
    found = synthetic.genome("a", 12_000, 3)
    own = set(genes.decode(found.letters, certain(labels(found).classes)))
    length = len(found)
    for by in (0, 1_234, 7_777):
        log_p = np.roll(certain(labels(found).classes), -by, axis=0)
        again = set()
        text = np.roll(found.letters, -by)
        for gene in genes.decode(text, log_p, circular=True):
            start, stop = (gene.start + by) % length, (gene.stop + by) % length
            again.add((gene.strand, start, stop))
        assert {(g.strand, g.start % length, g.stop % length) for g in own} <= again
        assert len(again) <= len(own) + 1


def test_a_circle_without_a_gap_is_cut_where_least_is_lost():
    """Genes lie side by side all round the circle, so it is cut between two of them."""
    text = "".join(gene_text(60, seed=i) for i in range(6))
    known = [Gene(((i * 180, (i + 1) * 180),), 1) for i in range(6)]
    by = 77
    at = [((a - by) % 1080, (a - by) % 1080 + 180) for gene in known for a, _ in gene.parts]
    moved = [Gene(((a, b),) if b <= 1080 else ((a, 1080), (0, b - 1080)), 1) for a, b in at]
    assert set(called(turned(text, by), moved, circular=True)) == set(moved)


TINY = train.Options(hidden=6, layers=1)


def test_a_net_reads_a_circle_over_its_origin(monkeypatch):
    net = train.build(TINY)
    params = net.init(seed=0)
    text = letters(bases(2_000, 5))
    monkeypatch.setattr(train, "BESIDE", 400)
    whole = train.predict(net, params, text, circular=True)
    assert whole.shape == (2_000, 7)
    for by in (1, 700):
        other = train.predict(net, params, np.roll(text, -by), circular=True)
        np.testing.assert_allclose(np.roll(other, by, axis=0), whole, atol=1e-3)
    line = train.predict(net, params, text)
    assert np.abs(line[0] - whole[0]).max() > 1e-3
    short = train.predict(net, params, text[:50], circular=True)
    assert short.shape == (50, 7)


# ---- what is written comes back


@pytest.mark.parametrize("strand", [1, -1])
def test_called_genes_come_back_from_gff3(tmp_path, strand):
    linear = BEFORE + GENE + BEHIND
    linear = linear if strand == 1 else complemented(linear)
    text = turned(linear, 160)
    length = len(text)
    begin = len(BEFORE) if strand == 1 else len(BEHIND)
    upward = ((begin - 160) % length, length), (0, begin + 140)
    known = Gene(upward[::strand], strand)
    circle = Record("a b", "here", letters(text), None, circular=True)
    log_p = certain(classes_of([known], length))
    one = annotation.Annotation(circle, log_p, tuple(called(text, [known], circular=True)))
    cut = GENE[:150] + "N" * 60 + GENE[150:]
    cut = cut if strand == 1 else complemented(cut)
    partial = called(cut, [Gene(((0, 360),), strand)])
    two = annotation.Annotation(
        Record("p", "here", letters(cut), None),
        certain(classes_of([Gene(((0, 360),), strand)], 360)),
        tuple(partial),
    )
    assert one.genes == (known,)
    assert one.confidence(known) == pytest.approx(np.exp(-0.05), abs=1e-6)
    annotation.write_gff3(tmp_path / "a.gff3", [one, two])
    back = read_gff3(tmp_path / "a.gff3")
    assert back == {"a b": (known,), "p": tuple(partial)}
    assert {gene.code for gene in back["a b"]} == {11}
    assert len(partial) == 2
    (tmp_path / "a.fa").write_text(f">a b\n{text}\n>p\n{cut}\n")
    first, second = read(tmp_path / "a.fa")
    assert (first.circular, first.genes) == (True, (known,))
    assert (second.circular, second.genes) == (False, tuple(partial))


def test_scores_of_genes_with_parts():
    known = [Gene(((370, 400), (0, 60)), 1), Gene(((200, 290), (100, 150)), -1)]
    own = scores.gene_score(known, [Gene(((370, 400), (0, 60)), 1)])
    assert own == scores.GeneScore(2, 1, 1, 1, 0)
    # The region has only the last part of the second gene, and a gene that ends where the first
    # begins.
    own = scores.gene_score(known, [Gene(((100, 150),), -1), Gene(((300, 370),), 1)])
    assert own == scores.GeneScore(2, 1, 0, 2, 1)


def test_the_usual_code_is_that_of_bacteria():
    text = letters(bases(5_000, 11))
    assert genetic_code(11) is BACTERIAL
    plain = {(f.strand, f.first, f.stop) for f in orfs.frames(text, 60)}
    assert plain == {(f.strand, f.first, f.stop) for f in orfs.frames(text, 60, code=BACTERIAL)}
    other = orfs.frames(complement(text), 60)
    assert {(-f.strand, f.first, f.stop) for f in other} == plain


@pytest.mark.skipif(not DATA.exists(), reason="the genomes of ../shared/data are not here")
def test_three_genes_of_phix174_lie_over_its_origin():
    pytest.importorskip("Bio", reason="reads GenBank: install gradcore[data]")
    (phage,) = read(DATA / "test" / "phiX174_NC_001422.gbk")
    assert phage.circular
    over = [gene for gene in phage.genes if len(gene.stretches) == 2]
    assert [(gene.start, gene.stop) for gene in over] == [(3_980, 136), (4_496, 136), (5_074, 51)]
    line = scores.gene_score(phage.genes, orfs.longest_orfs(phage.letters))
    circle = scores.gene_score(phage.genes, orfs.longest_orfs(phage.letters, circular=True))
    assert (line.known, line.stops, line.whole) == (11, 5, 3)
    assert (circle.known, circle.stops, circle.whole) == (11, 8, 4)


@pytest.mark.skipif(not DATA.exists(), reason="the genomes of ../shared/data are not here")
def test_a_gene_of_lambda_goes_on_over_an_unknown_base():
    pytest.importorskip("Bio", reason="reads GenBank: install gradcore[data]")
    (phage,) = read(DATA / "test" / "lambda_NC_001416.gbk.gz")
    (gene,) = (gene for gene in phage.genes if gene.span == (19_649, 20_855))
    assert phage.letters[20_660:20_663].tobytes() == b"NAA"
    assert (20_660 - gene.start) % 3 == 0
    assert gene.stop in {one.stop for one in orfs.longest_orfs(phage.letters) if one.strand == 1}
