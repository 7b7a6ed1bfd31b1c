"""GFF3 and GTF: names of sequences, parts of one gene, circular sequences, unknown ends, sequences
within the file.
"""

import gzip

import pytest

import gradcore as gd
from genome_files import bases, fasta, genbank, gff3
from gradcore.apps.tasks.dna.labels import labels
from gradcore.apps.tasks.dna.records import Gene, read, read_gff3

C1, C2, C3 = bases(500, 1), bases(900, 2), bases(400, 3)
CIRCLE = "c x region 1 400 . + . ID=c;Is_circular=true"


def genes(folder, letters, *rows):
    """The records of a FASTA file with a GFF3 file beside it, and the messages about them."""
    (folder / "a.fa").write_text(fasta(**letters))
    (folder / "a.gff3").write_text(gff3(*rows))
    said = []
    records = read(folder / "a.fa", say=said.append)
    return {record.name: record.genes for record in records}, [
        line.replace(f"{folder}/", "") for line in said
    ]


def parts(found):
    return [(gene.parts, gene.strand) for gene in found]


# ---- names decide


def test_genes_belong_to_sequences_by_name(tmp_path):
    found, said = genes(tmp_path, {"c1": C1, "c2": C2}, "c1 x CDS 1 90 . + 0 ID=a")
    assert found == {"c1": (Gene(((0, 90),), 1),), "c2": ()}
    assert "a.gff3 does not name c2 of a.fa: assumed to have no genes" in said[1]


def test_a_record_that_is_named_and_has_no_genes_is_a_fact(tmp_path):
    rows = ["##sequence-region c3 1 400", "c1 x CDS 1 90 . + 0 ID=a", "c2 x CDS 4 93 . - 0 ID=b"]
    found, said = genes(tmp_path, {"c1": C1, "c2": C2, "c3": C3}, *rows)
    assert parts(found["c1"]) == [(((0, 90),), 1)]
    assert parts(found["c2"]) == [(((3, 93),), -1)]
    assert found["c3"] == ()
    assert said == [
        f"the genes of {tmp_path}/a.fa are read from a.gff3".replace(f"{tmp_path}/", "")
    ]
    (third,) = (r for r in read(tmp_path / "a.fa") if r.name == "c3")
    assert not labels(third).classes.any()
    assert labels(third).counts.all()


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ("NC_1.1", "NC_1"),
        ("NC_1", "NC_1.2"),
        ("gi|7|ref|NC_1.1|", "NC_1.1"),
        ("c1", "lcl|c1"),
        ("a b;c", "a%20b%3Bc"),
        ("a", "%61"),
        ("a description", "a"),
    ],
)
def test_names_that_mean_the_same(tmp_path, record, named):
    other = "other x CDS 1 60 . + 0 ID=b"
    found, _ = genes(tmp_path, {record: C1, "other": C2}, f"{named} x CDS 1 90 . + 0 ID=a", other)
    assert parts(found[record.split()[0]]) == [(((0, 90),), 1)]
    assert parts(found["other"]) == [(((0, 60),), 1)]


@pytest.mark.parametrize(
    ("records", "named"),
    [
        (["NC_1.1"], "NC_1.2"),  # another version is another sequence
        (["c.1", "c.2"], "c"),  # either could be meant
        (["c1"], "d1"),
        (["c10"], "c1"),
    ],
)
def test_names_that_do_not(tmp_path, records, named):
    message = rf"a\.gff3 has no genes of {records[0]}.*: it names {named}, and none of these is in"
    with pytest.raises(gd.ArgumentError, match=message):
        genes(tmp_path, dict.fromkeys(records, C1), f"{named} x CDS 1 90 . + 0 ID=a")


def test_what_the_annotation_names_besides_is_told(tmp_path):
    rows = ["c1 x CDS 1 90 . + 0 ID=a", "c9 x CDS 1 9000 . + 0 ID=b"]
    found, said = genes(tmp_path, {"c1": C1}, *rows)
    assert parts(found["c1"]) == [(((0, 90),), 1)]
    assert "a.gff3 has genes of c9, which are not in a.fa; they are ignored" in said
    found, said = genes(tmp_path, {"c1": C1}, "##sequence-region c1 1 700", rows[0])
    assert "a.gff3 states 700 bases for c1; a.fa has 500: do they belong together?" in said
    found, said = genes(tmp_path, {"c1": C1}, "c1 x gene 1 90 . + . ID=a")
    assert found == {"c1": ()}
    assert "a.gff3 has no CDS, so that no record of a.fa has genes; its features: gene" in said
    found, said = genes(tmp_path, {"c1": C1}, "c1 gradcore CDS 1 90 . + 0 ID=a")
    assert "a.gff3 was written by gradcore: its genes are those that a net called" in said


def test_two_records_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.fa").write_text(f">c1 one\n{C1}\n>c2\n{C2}\n>c1 two\n{C3}\n")
    with pytest.raises(gd.ArgumentError, match=r"line 5: a second record is called c1, as the one"):
        read(tmp_path / "a.fa")


def test_a_genbank_file_can_tell_the_genes_of_fasta(tmp_path):
    pytest.importorskip("Bio", reason="reads GenBank: install gradcore[data]")
    (tmp_path / "a.fa").write_text(fasta(TEST=C3, other=C1))
    (tmp_path / "a.gbk").write_text(genbank([("371..60",)], C3, topology="circular"))
    one, other = read(tmp_path / "a.fa", annotation=tmp_path / "a.gbk")
    assert parts(one.genes) == [(((370, 400), (0, 60)), 1)]
    assert one.circular
    assert other.genes == ()
    (tmp_path / "a.gbk").write_text(genbank([("1..60",)], C1))
    with pytest.raises(gd.ArgumentError, match=r"TEST\.1 has 500 bases, and TEST of .* 400"):
        read(tmp_path / "a.fa", annotation=tmp_path / "a.gbk")


# ---- parts of one gene


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["1 90 . + 0 Parent=t1", "201 290 . + 0 Parent=t1"], [(((0, 90), (200, 290)), 1)]),
        (
            ["1 90 . + 0 ID=a;Parent=t1", "201 290 . + 0 ID=b;Parent=t1"],
            [(((0, 90), (200, 290)), 1)],
        ),
        (["1 90 . - 0 ID=a;Parent=t1", "201 290 . - 0 Parent=t1"], [(((200, 290), (0, 90)), -1)]),
        # In a programmed frameshift the ribosome slips back by one base.
        (["1 90 . + 0 ID=a", "90 290 . + 0 ID=a"], [(((0, 90), (89, 290)), 1)]),
        # One comma is part of a name, the other separates two names.
        (["1 90 . + 0 Parent=t%2C1", "201 290 . + 0 Parent=t%2C1"], [(((0, 90), (200, 290)), 1)]),
        (
            ["1 90 . + 0 ID=a;Parent=t,u", "201 290 . + 0 ID=a;Parent=t,u"],
            [(((0, 90), (200, 290)), 1)],
        ),
        # Two products of one gene count as two genes.
        (
            ["1 390 . + 0 ID=a;Parent=g", "1 290 . + 0 ID=b;Parent=g"],
            [(((0, 390),), 1), (((0, 290),), 1)],
        ),
        (
            ["1 90 . + 0 ID=a;Parent=g", "201 290 . - 0 ID=b;Parent=g"],
            [(((0, 90),), 1), (((200, 290),), -1)],
        ),
        (["1 90 . + 0 .", "201 290 . + 0 ."], [(((0, 90),), 1), (((200, 290),), 1)]),
        (["1 90 . + 0 ID=a", "1 90 . + 0 ID=b"], [(((0, 90),), 1)]),
        (["1 90 . + 0 ID=a;", "201 290 . + 0 ID=a;"], [(((0, 90), (200, 290)), 1)]),
    ],
)
def test_lines_of_one_gene(tmp_path, rows, expected):
    found, _ = genes(tmp_path, {"c1": C1}, *[f"c1 x CDS {row}" for row in rows])
    assert parts(found["c1"]) == expected


def test_types_may_be_numbers_of_the_sequence_ontology(tmp_path):
    rows = ["c1 x SO:0000336 1 90 . + . ID=g", "c1 x SO:0000316 1 90 . + 0 ID=a;Parent=g"]
    found, _ = genes(tmp_path, {"c1": C1}, *rows)
    assert found["c1"] == (Gene(((0, 90),), 1, pseudo=True),)


def test_an_operon_is_not_one_gene(tmp_path):
    rows = [
        "operon 1 400 . + . ID=o",
        "CDS 1 90 . + 0 ID=a;Parent=o",
        "CDS 201 290 . + 0 ID=b;Parent=o",
    ]
    found, _ = genes(tmp_path, {"c1": C1}, *[f"c1 x {row}" for row in rows])
    assert parts(found["c1"]) == [(((0, 90),), 1), (((200, 290),), 1)]


@pytest.mark.parametrize(
    "rows",
    [
        ["1 90 . + 0 ID=a", "201 290 . - 0 ID=a"],
        ["1 90 . + 0 Parent=t", "201 290 . - 0 Parent=t"],
        ["1 90 . + 0 ID=a;exception=trans-splicing", "201 290 . + 0 ID=a;exception=trans-splicing"],
    ],
)
def test_trans_spliced_genes_are_masked(tmp_path, rows):
    rows = ["301 390 . + 0 ID=b", *rows]
    found, said = genes(tmp_path, {"c1": C1}, *[f"c1 x CDS {row}" for row in rows])
    good, *masked = found["c1"]
    assert good == Gene(((300, 390),), 1)
    assert [(gene.parts, gene.pseudo) for gene in masked] == [
        (((0, 90),), True),
        (((200, 290),), True),
    ]
    (record,) = read(tmp_path / "a.fa")
    known = labels(record)
    assert not known.counts[:90].any()
    assert not known.counts[200:290].any()
    assert known.counts[90:200].all()
    assert known.counts[290:].all()
    assert known.classes[300:390].tolist() == [1, 2, 3] * 30
    assert not known.classes[:300].any()
    assert "a.gff3, line 3: the bases of the CDS at 1..90 are left out of training" in said[-1]


def test_what_lies_in_a_pseudogene_is_one(tmp_path):
    rows = [
        "c1 x pseudogene 1 90 . + . ID=g",
        "c1 x mRNA 1 90 . + . ID=m;Parent=g",
        "c1 x CDS 1 90 . + 0 ID=a;Parent=m",
        "c1 x gene 101 190 . + . ID=h;pseudo=true",
        "c1 x CDS 101 190 . + 0 ID=b;Parent=h",
        "c1 x CDS 201 290 . + 0 ID=c;pseudogene=unknown",
        "c1 x CDS 301 390 . + 0 ID=d;pseudo=false",
    ]
    found, _ = genes(tmp_path, {"c1": C1}, *rows)
    assert [gene.pseudo for gene in found["c1"]] == [True, True, True, False]


def test_the_frame_of_a_gene_with_a_phase(tmp_path):
    rows = ["c1 x CDS 11 50 . + 2 ID=a", "c1 x CDS 101 150 . - 1 ID=b"]
    found, _ = genes(tmp_path, {"c1": C1}, *rows)
    assert [(g.phase, g.start_known, g.stop_known) for g in found["c1"]] == [
        (2, False, True),
        (1, False, True),
    ]
    (record,) = read(tmp_path / "a.fa")
    classes = labels(record).classes
    assert classes[10:16].tolist() == [2, 3, 1, 2, 3, 1]
    assert classes[144:150].tolist() == [5, 4, 6, 5, 4, 6]


# ---- circles


@pytest.mark.parametrize(
    ("rows", "expected", "ends"),
    [
        (["371 460 . + 0 ID=a"], (((370, 400), (0, 60)), 1), (370, 60)),
        (["371 460 . - 0 ID=a"], (((0, 60), (370, 400)), -1), (60, 370)),
        (["371 400 . + 0 ID=a", "1 60 . + 0 ID=a"], (((370, 400), (0, 60)), 1), (370, 60)),
        (["1 60 . - 0 ID=a", "371 400 . - 0 ID=a"], (((0, 60), (370, 400)), -1), (60, 370)),
        (["401 460 . + 0 ID=a"], (((0, 60),), 1), (0, 60)),
        (
            ["351 360 . + 0 ID=a", "371 430 . + 1 ID=a"],
            (((350, 360), (370, 400), (0, 30)), 1),
            (350, 30),
        ),
        (["311 400 . + 0 ID=a"], (((310, 400),), 1), (310, 400)),
    ],
)
def test_genes_over_the_origin(tmp_path, rows, expected, ends):
    found, _ = genes(tmp_path, {"c": C3}, CIRCLE, *[f"c x CDS {row}" for row in rows])
    (gene,) = found["c"]
    assert (gene.parts, gene.strand) == expected
    assert (gene.start, gene.stop) == ends
    assert (gene.start_known, gene.stop_known) == (True, True)
    (record,) = read(tmp_path / "a.fa")
    assert record.circular
    along = [base for a, b in gene.parts for base in range(a, b)[:: gene.strand]]
    classes = labels(record).classes[along]
    first = 1 if gene.strand == 1 else 4
    assert classes.tolist() == [first + i % 3 for i in range(len(along))]
    assert (labels(record).classes > 0).sum() == len(along)


def test_only_a_circle_has_genes_over_its_origin(tmp_path):
    with pytest.raises(
        gd.ArgumentError, match=r"line 2: a gene at 371\.\.460 ends beyond c, which"
    ):
        genes(tmp_path, {"c": C3}, "c x CDS 371 460 . + 0 ID=a")
    with pytest.raises(
        gd.ArgumentError, match=r"line 3: a gene at 1\.\.401 .*longer than the circle"
    ):
        genes(tmp_path, {"c": C3}, CIRCLE, "c x CDS 1 401 . + 0 ID=a")
    (tmp_path / "b.gff3").write_text(gff3(CIRCLE, "c x CDS 371 460 . + 0 ID=a"))
    assert parts(read_gff3(tmp_path / "b.gff3")["c"]) == [(((370, 400), (0, 60)), 1)]
    (tmp_path / "b.gff3").write_text(gff3("c x CDS 371 460 . + 0 ID=a;Is_circular=true"))
    with pytest.raises(gd.ArgumentError, match="record c: it is circular, and its length is not"):
        read_gff3(tmp_path / "b.gff3")


# ---- ends that are not known


@pytest.mark.parametrize(
    ("row", "known"),
    [
        ("1 90 . + 0 ID=a;partial=true;start_range=.,1", (False, True)),
        ("1 90 . - 0 ID=a;partial=true;start_range=.,1", (True, False)),
        ("1 90 . + 0 ID=a;partial=true;end_range=90,.", (True, False)),
        ("1 90 . - 0 ID=a;end_range=90,.", (False, True)),
        ("1 90 . + 0 ID=a;partial=true", (False, False)),
        ("1 90 . + 0 ID=a;partial=10", (False, True)),  # as Prodigal writes it
        ("1 90 . - 0 ID=a;partial=01", (False, True)),
        ("1 90 . + 0 ID=a;partial=00", (True, True)),
    ],
)
def test_partial_genes(tmp_path, row, known):
    found, _ = genes(tmp_path, {"c1": C1}, f"c1 x CDS {row}")
    (gene,) = found["c1"]
    assert (gene.start_known, gene.stop_known) == known


def test_a_missing_phase_is_found_from_the_other_end(tmp_path):
    rows = [
        "1 92 . + . ID=a;start_range=.,1",
        "101 192 . + . ID=b;partial=true",
        "201 292 . + . ID=c",
    ]
    found, said = genes(tmp_path, {"c1": C1}, *[f"c1 x CDS {row}" for row in rows])
    assert [(gene.phase, gene.pseudo) for gene in found["c1"]] == [
        (2, False),
        (0, True),
        (0, False),
    ]
    assert "neither its phase nor its ends are known" in said[-1]


def test_genetic_codes_of_genes(tmp_path):
    pytest.importorskip("Bio", reason="reads genetic codes: install gradcore[data]")
    rows = [
        "1 90 . + 0 ID=a;transl_table=4",
        "101 190 . + 0 ID=b;transl_table=77",
        "201 290 . + 0 ID=c",
    ]
    found, said = genes(tmp_path, {"c1": C1}, *[f"c1 x CDS {row}" for row in rows])
    assert [gene.code for gene in found["c1"]] == [4, None, None]
    assert "a.gff3, line 3: there is no genetic code '77' (transl_table); it is ignored" in said


# ---- GTF, GFF2, sequences inside, encodings


GTF = """c\tx\tstart_codon\t1\t3\t.\t+\t0\tgene_id "g"; transcript_id "t";
c\tx\tCDS\t1\t87\t.\t+\t0\tgene_id "g"; transcript_id "t"; is_phage "1";
c\tx\tstop_codon\t88\t90\t.\t+\t0\tgene_id "g"; transcript_id "t";
c\tx\tCDS\t104\t150\t.\t-\t2\tgene_id "h"; transcript_id "u"; note "a; b";
c\tx\tCDS\t201\t250\t.\t-\t0\tgene_id "h"; transcript_id "u"; note "a; b";
c\tx\tstop_codon\t101\t103\t.\t-\t0\tgene_id "h"; transcript_id "u";
c\tx\tCDS\t301\t390\t.\t+\t0\tgene_id "i"; transcript_id "v"; gene_biotype "pseudogene";
"""


def test_gtf_keeps_stop_codons_apart(tmp_path):
    (tmp_path / "a.fa").write_text(fasta(c=C3))
    (tmp_path / "a.gtf").write_text(GTF)
    (record,) = read(tmp_path / "a.fa")
    one, two, three = record.genes
    assert (one.parts, one.strand, one.phage) == (((0, 90),), 1, True)
    assert (one.start_known, one.stop_known) == (True, True)
    assert (two.parts, two.strand) == (((200, 250), (100, 150)), -1)
    assert (two.start_known, two.stop_known) == (False, True)
    assert three.pseudo
    said = []
    (tmp_path / "a.gtf").write_text("".join(GTF.splitlines(True)[1:2]))
    (record,) = read(tmp_path / "a.fa", say=said.append)
    assert [(g.parts, g.stop_known) for g in record.genes] == [(((0, 87),), False)]
    assert "a.gtf, line 1: there are no stop_codon lines" in said[-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("##gff-version 2\n", r"line 1: this is GFF version 2.*Convert it to GFF3"),
        ("##gff-version 3\nc x CDS 1 90 . + 0 ID=a\n", "line 2: .*separated by blanks: write tabs"),
        (
            "##gff-version 3\nc\tx\tCDS\t390\t60\t.\t+\t0\tID=a\n",
            r"line 2: start.*is written 371 460",
        ),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    (tmp_path / "a.fa").write_text(fasta(c=C3))
    (tmp_path / "a.gff3").write_text(text)
    with pytest.raises(gd.ArgumentError, match=message):
        read(tmp_path / "a.fa")


@pytest.mark.parametrize("line", ["##FASTA\n", ""])
def test_a_sequence_inside_gff3(tmp_path, line):
    """This is how Prokka and Bakta write it; the line ##FASTA may be missing."""
    text = gff3("##sequence-region c 1 400", "c x CDS 1 90 . + 0 ID=a") + line + fasta(c=C3, d=C1)
    (tmp_path / "a.gff").write_text(text)
    one, two = read(tmp_path / "a.gff")
    assert (one.name, one.letters.tobytes().decode()) == ("c", C3)
    assert parts(one.genes) == [(((0, 90),), 1)]
    assert (two.name, two.genes) == ("d", ())
    (tmp_path / "a.gff").write_text(text.replace(C3[:10], C3[:9] + "!"))
    number = 4 + bool(line) + 1
    with pytest.raises(gd.ArgumentError, match=rf"a\.gff, record c, line {number}: '!' in the"):
        read(tmp_path / "a.gff")
    (tmp_path / "a.gff").write_text(gff3("c x CDS 1 90 . + 0 ID=a"))
    with pytest.raises(gd.ArgumentError, match=r"features and no sequence .*Name the FASTA file"):
        read(tmp_path / "a.gff")


def test_windows_files_and_packed_ones(tmp_path):
    rows = gff3("c x CDS 1 90 . + 0 ID=a").replace("\n", "\r\n")
    letters = ("\n\n" + fasta(c=C3).lower()).replace("\n", "\r\n")
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"):
        (tmp_path / "a.fna.gz").write_bytes(gzip.compress(letters.encode(encoding)))
        (tmp_path / "a.gff.gz").write_bytes(gzip.compress(rows.encode(encoding)))
        (record,) = read(tmp_path / "a.fna.gz")
        assert record.letters.tobytes().decode() == C3
        assert parts(record.genes) == [(((0, 90),), 1)]


def test_many_of_a_kind_are_summed_up(tmp_path):
    rows = [f"c1 x CDS {i} {i + 9} . + 0 ID=g{i};transl_table=x" for i in range(1, 400, 10)]
    found, said = genes(tmp_path, {"c1": C1}, *rows)
    assert len(found["c1"]) == 40
    assert len([line for line in said if "there is no genetic code 'x'" in line]) == 5
    assert said[-1] == "a.gff3: 35 more CDS features whose genetic code does not exist, 40 in all"
