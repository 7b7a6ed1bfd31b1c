"""GenBank and EMBL: locations, masks, records that are left out, first lines, headers,
encodings.
"""

import io

import pytest

pytest.importorskip("Bio", reason="reads GenBank: install gradcore[data]")

import gradcore as gd
from genome_files import bases, genbank
from gradcore.apps.tasks.dna.labels import labels
from gradcore.apps.tasks.dna.records import Gene, read, read_sequences

LETTERS = bases(400, 3)


def told(folder, *features, letters=LETTERS, **how):
    """The record of a GenBank file, and the messages about it."""
    (folder / "a.gbk").write_text(genbank(features, letters, **how))
    said = []
    (record,) = read(folder / "a.gbk", say=said.append)
    return record, [line.replace(f"{folder}/", "") for line in said]


# ---- locations


@pytest.mark.parametrize("topology", ["linear", "circular"])
@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("1..90", Gene(((0, 90),), 1)),
        ("complement(1..90)", Gene(((0, 90),), -1)),
        ("complement(join(1..30,61..90))", Gene(((60, 90), (0, 30)), -1)),
        ("join(complement(61..90),complement(1..30))", Gene(((60, 90), (0, 30)), -1)),
        ("<1..>90", Gene(((0, 90),), 1, start_known=False, stop_known=False)),
        ("complement(<1..90)", Gene(((0, 90),), -1, stop_known=False)),
        ("complement(join(<1..30,61..90))", Gene(((60, 90), (0, 30)), -1, stop_known=False)),
        ("join(<1..30,61..90)", Gene(((0, 30), (60, 90)), 1, start_known=False)),
        ("join(10..50,40..99)", Gene(((9, 50), (39, 99)), 1)),
        ("TEST.1:1..90", Gene(((0, 90),), 1)),
        # Some parts lie in another record: the reading frame continues, and that end of the gene is
        # unknown.
        ("join(300..389,J00194.1:41..100)", Gene(((299, 389),), 1, stop_known=False)),
        ("join(J00194.1:41..101,300..389)", Gene(((299, 389),), 1, 2, start_known=False)),
        ("complement(join(J00194.1:41..101,300..389))", Gene(((299, 389),), -1, stop_known=False)),
        (
            "complement(join(300..389,J00194.1:41..101))",
            Gene(((299, 389),), -1, 2, start_known=False),
        ),
    ],
)
def test_locations(tmp_path, location, expected, topology):
    record, said = told(tmp_path, (location,), topology=topology)
    assert record.genes == (expected,)
    assert record.circular == (topology == "circular")
    assert said == []


def test_a_part_in_another_record_may_lie_between_two_of_this_one(tmp_path):
    record, _ = told(tmp_path, ("join(1..50,J00194.1:1..10,101..160)",))
    assert record.genes == (
        Gene(((0, 50),), 1, stop_known=False),
        Gene(((100, 160),), 1, start_known=False),
    )
    record, _ = told(tmp_path, ("join(1..50,J00194.1:1..11,101..160)",))
    assert record.genes[1].phase == 2
    # The parts have 50 and 11 bases, so the next base is the second of its codon.
    assert labels(record).classes[100:104].tolist() == [2, 3, 1, 2]


@pytest.mark.parametrize("location", ["371..60", "join(371..400,1..60)"])
def test_over_the_origin(tmp_path, location):
    record, said = told(tmp_path, (location,), (f"complement({location})",), topology="circular")
    one, other = record.genes
    assert one == Gene(((370, 400), (0, 60)), 1)
    assert (one.start, one.stop) == (370, 60)
    assert other == Gene(((0, 60), (370, 400)), -1)
    assert (other.start, other.stop) == (60, 370)
    assert said == []


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("370..60", "it ends before it begins, and the record is linear"),
        ("complement(370..60)", "it ends before it begins, and the record is linear"),
        ("123^124", "it lies between two bases"),
        ("J00194.1:41..100", "all of it lies in another record"),
        ("?..90", "Biopython cannot read its location"),
        ("0..90", "Biopython cannot read its location"),
        ("gap(10)", "Biopython cannot read its location"),
        ("join(1..30,order(40..50,60..70))", "Biopython cannot read its location"),
        ("complement(join(1..30,complement(40..60)))", "Biopython cannot read its location"),
        ("nowhere", "Biopython cannot read its location"),
    ],
)
def test_one_location_that_cannot_be_read_loses_no_other_gene(tmp_path, location, reason):
    record, said = told(tmp_path, ("1..90",), (location,), ("complement(201..290)",))
    assert record.genes == (Gene(((0, 90),), 1), Gene(((200, 290),), -1))
    assert said == [said[0]]
    assert said[0].startswith(f"a.gbk, line 7: the CDS {location} is left out: {reason}")


def test_a_cds_that_biopython_passes_over_is_told(tmp_path):
    text = genbank([("1..90",), ("201..290",)], LETTERS)
    for line in ("     CDS", "     CDS 201..290", "\tCDS\t201..290"):
        path = tmp_path / "a.gbk"
        path.write_text(text.replace("     CDS             201..290", line))
        said = []
        (record,) = read(path, say=said.append)
        assert record.genes[0] == Gene(((0, 90),), 1)
        if len(record.genes) == 1:
            assert ", line 7: the CDS here is left out" in said[0]
        else:
            assert record.genes[1] == Gene(((200, 290),), 1)


@pytest.mark.parametrize(
    ("location", "masked", "reason"),
    [
        ("order(1..30,61..90)", ((0, 30), (60, 90)), "order(...) does not say"),
        ("join(1..30,complement(61..90))", ((0, 30), (60, 90)), "it is read from both strands"),
        ("one-of(10,13)..99", ((9, 99),), "one of its positions is uncertain"),
        ("(10.20)..(90.99)", ((9, 99),), "one of its positions is uncertain"),
        ("join(1..>30,61..90)", ((0, 30), (60, 90)), "one of its positions is uncertain"),
    ],
)
def test_a_frame_that_is_not_certain_is_masked(tmp_path, location, masked, reason):
    record, said = told(tmp_path, ("301..390",), (location,))
    assert record.genes[0] == Gene(((300, 390),), 1)
    assert tuple(gene.parts[0] for gene in record.genes[1:]) == masked
    assert all(gene.pseudo for gene in record.genes[1:])
    known = labels(record)
    counted = [not any(a <= base < b for a, b in masked) for base in range(400)]
    assert known.counts.tolist() == counted
    assert not known.classes[:300].any()
    assert said[0].startswith(
        f"a.gbk, line 7: the bases of the CDS {location} are left out of training and scores: "
        + reason
    )


def test_a_location_beyond_the_record_is_refused_with_its_line(tmp_path):
    for topology in ("linear", "circular"):
        with pytest.raises(gd.ArgumentError, match=r"line 7: the CDS at 301\.\.490 is not within"):
            told(tmp_path, ("1..90",), ("301..490",), topology=topology)


def test_many_are_summed_up(tmp_path):
    record, said = told(tmp_path, *[(f"{300 + i}..60",) for i in range(9)], ("1..90",))
    assert record.genes == (Gene(((0, 90),), 1),)
    assert len(said) == 6
    assert said[4].startswith("a.gbk, line 10: the CDS 304..60 is left out")
    assert said[5] == "a.gbk: 4 more CDS features left out, 9 in all"


def test_qualifiers(tmp_path):
    record, said = told(
        tmp_path,
        ("1..90", "transl_table=4", "codon_start=3"),
        ("101..190", "transl_table=4", 'pseudogene="unknown"'),
        ("201..290", "transl_table=11", "transl_except=(pos:210..212,aa:Sec)", 'is_phage="1"'),
        ("301..390", "transl_table=7", "codon_start=4", 'is_phage="0"'),
    )
    first, second, third, fourth = record.genes
    assert (first.phase, first.start_known, first.stop_known) == (2, False, True)
    assert second.pseudo
    assert third == Gene(((200, 290),), 1, phage=True)
    assert fourth == Gene(((300, 390),), 1)
    assert record.codes == {4: 2, 11: 1}
    assert said == [
        "a.gbk, line 16: there is no genetic code '7' (transl_table); it is ignored",
        "a.gbk, line 16: codon_start must be 1, 2 or 3; got '4', and 1 is used",
    ]


# ---- records


@pytest.mark.parametrize(
    ("first", "name", "circular"),
    [
        (
            "LOCUS       NODE_1_length_400_cov_23.4400 bp   DNA circular BCT 01-JAN-2020",
            "NODE_1_length_400_cov_23.4",
            True,
        ),
        ("LOCUS       contig_12400 bp    DNA     linear   UNK", "contig_12", False),
        ("LOCUS       contig_1              400 bp   DNA circular  BCT", "contig_1", True),
        (
            "LOCUS       a_very_long_name_of_a_contig 400bp DNA linear",
            "a_very_long_name_of_a_contig",
            False,
        ),
        ("LOCUS       two words 400 bp", "two_words", False),
        ("LOCUS       U00096", "U00096", False),
    ],
)
def test_first_lines_of_every_kind(tmp_path, first, name, circular):
    text = genbank([("1..90",)], LETTERS, locus=first)
    text = text.replace("ACCESSION   TEST\nVERSION     TEST.1\n", "ACCESSION   \nVERSION     \n")
    (tmp_path / "a.gbk").write_text(text)
    (record,) = read(tmp_path / "a.gbk")
    assert (record.name, record.circular, len(record)) == (name, circular, 400)
    assert record.genes == (Gene(((0, 90),), 1),)


def test_records_are_circles_each_by_itself(tmp_path):
    one = genbank([("371..60",)], LETTERS, name="ONE", topology="circular")
    two = genbank([("371..60",), ("1..90",)], LETTERS, name="TWO")
    none = genbank([], LETTERS, name="NONE")
    said = []
    (tmp_path / "a.gbk").write_text(one + two + none)
    first, second, third = read(tmp_path / "a.gbk", say=said.append)
    assert (first.circular, first.genes) == (True, (Gene(((370, 400), (0, 60)), 1),))
    assert (second.circular, second.genes) == (False, (Gene(((0, 90),), 1),))
    assert (third.name, third.genes) == ("NONE.1", ())
    assert len(said) == 1
    assert f", line {one.count(chr(10)) + 6}: the CDS 371..60 is left out" in said[0]


RELEASE = """GBBCT1.SEQ          Genetic Sequence Data Bank
                          October 15 2019

                NCBI-GenBank Flat File Release 234.0

                        Bacterial Sequences (Part 1)

  101 loci,   186247480 bases, from   101 reported sequences

"""


@pytest.mark.parametrize("head", [RELEASE, "\n\n", "\ufeff", "\ufeff\n", "# a comment\n"])
def test_what_stands_before_the_first_record(tmp_path, head):
    record, said = told(tmp_path, ("1..90",), head=head)
    assert (record.genes, len(record)) == ((Gene(((0, 90),), 1),), 400)
    assert said == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig", "latin-1"])
def test_encodings_and_line_ends(tmp_path, encoding):
    text = genbank([("1..90", 'note="Müller"')], LETTERS).replace("\n", "\r\n")
    (tmp_path / "a.gbk").write_bytes(text.encode(encoding))
    (record,) = read(tmp_path / "a.gbk")
    assert (record.genes, record.letters.tobytes().decode()) == ((Gene(((0, 90),), 1),), LETTERS)


def embl(text):
    """The same record in EMBL, as Biopython writes it."""
    from Bio import SeqIO

    (entry,) = SeqIO.parse(io.StringIO(text), "genbank")
    out = io.StringIO()
    SeqIO.write([entry], out, "embl")
    return out.getvalue()


def test_embl(tmp_path):
    features = [("1..90", "transl_table=4"), ("complement(join(371..400,1..60))",), ("<101..>190",)]
    text = embl(genbank(features, LETTERS, topology="circular"))
    path = tmp_path / "a.embl"
    path.write_text(text)
    (record,) = read(path)
    assert (record.name, record.circular) == ("TEST.1", True)
    assert record.letters.tobytes().decode() == LETTERS
    assert record.genes == (
        Gene(((0, 90),), 1),
        Gene(((0, 60), (370, 400)), -1),
        Gene(((100, 190),), 1, start_known=False, stop_known=False),
    )
    assert record.codes == {4: 1}
    said = []
    path.write_text(text.replace("<101..>190", "190..^101") + text.replace("TEST", "OTHER"))
    one, other = read(path, say=said.append)
    assert (len(one.genes), len(other.genes), other.name) == (2, 3, "OTHER.1")
    line = text.split("\n").index("FT   CDS             <101..>190") + 1
    assert f", line {line}: the CDS 190..^101 is left out" in said[0]
    row = next(i for i, one in enumerate(text.split("\n"), 1) if one.startswith("SQ")) + 2
    path.write_text(text.replace(LETTERS[60:70].lower(), LETTERS[60:69].lower() + "?"))
    with pytest.raises(gd.ArgumentError, match=rf"record TEST, line {row}: '\?' in the sequence"):
        read(path)
    path.write_text(text.replace("//\n", ""))
    with pytest.raises(gd.ArgumentError, match=r"record TEST, line \d+"):
        read(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "400 bp ",
            "400 aa ",
            r"record TEST, line 1: this is a protein \('aa' in its LOCUS line\)",
        ),
        ('note="b"', 'note="b', "record TEST, line 6: Biopython cannot read the CDS 1..90: is a"),
        ("\n//\n", "\n", "the file ends within the record"),
    ],
)
def test_broken_files_name_the_line(tmp_path, old, new, message):
    text = genbank([("1..90", 'note="b"')], LETTERS)
    assert old in text
    (tmp_path / "a.gbk").write_text(text.replace(old, new))
    with pytest.raises(gd.ArgumentError, match=message):
        read(tmp_path / "a.gbk")


def test_a_wrong_letter_is_named_with_its_own_line(tmp_path):
    text = genbank([("1..90",)], LETTERS)
    row = LETTERS[120:130].lower()
    (tmp_path / "a.gbk").write_text(text.replace(row, row[:9] + "?"))
    with pytest.raises(gd.ArgumentError, match=r"record TEST, line 10: '\?' in the sequence"):
        read(tmp_path / "a.gbk")


def test_a_record_without_its_sequence_tells_how_to_get_it(tmp_path):
    text = genbank([("1..90",)], LETTERS)
    (tmp_path / "a.gbk").write_text(
        text[: text.index("ORIGIN")] + "CONTIG      join(A:1..400)\n//\n"
    )
    with pytest.raises(gd.ArgumentError, match=r"no sequence \(ORIGIN\).*'GenBank \(full\)'"):
        read(tmp_path / "a.gbk")


def test_a_locus_line_of_another_length_is_told(tmp_path):
    locus = "LOCUS       TEST                     500 bp    DNA     linear   BCT 01-JAN-2000"
    record, said = told(tmp_path, ("1..90",), locus=locus)
    assert len(record) == 400
    assert said == [
        "a.gbk, line 1: the LOCUS line of TEST.1 states 500 bases; the sequence has 400. Is the "
        "file complete?"
    ]


def test_sequences_alone_need_no_good_features(tmp_path):
    (tmp_path / "a.gbk").write_text(
        genbank([("301..490",), ("nowhere", 'note="open')], LETTERS, topology="circular")
    )
    said = []
    (record,) = read_sequences(tmp_path / "a.gbk", say=said.append)
    assert (record.name, record.genes, record.circular) == ("TEST.1", None, True)
    assert record.letters.tobytes().decode() == LETTERS
    assert said == []


def test_parts_out_of_order_on_a_line_are_told(tmp_path):
    record, said = told(tmp_path, ("join(371..400,1..60)",))
    assert record.genes == (Gene(((370, 400), (0, 60)), 1),)
    assert "are joined in this order, though TEST.1 is linear" in said[0]
