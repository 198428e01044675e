import textwrap
from email.message import EmailMessage

import pytest

from pharos.core import Document, DocumentError
from pharos.data.parsing import parse_bytes


def man(page: str) -> Document:
    return parse_bytes(textwrap.dedent(page).encode(), name="page.1", source="s")


def body(lines: str) -> str:
    return man(".TH X 1\n.SH S\n" + textwrap.dedent(lines)).text.removeprefix("S\n\n")


# --- man pages ---------------------------------------------------------------------------------


def test_a_man_page_has_sections_and_options_below_their_names() -> None:
    document = man(
        """\
        .\\" comment
        .TH LS 1 "May 2024"
        .SH NAME
        ls \\- list files
        .SH OPTIONS
        .SS Common
        .TP
        .BR \\-a ", " \\-\\-all
        do not ignore
        entries
        .TP
        \\fB\\-l\\fR
        long
        .PP
        End.
        """
    )
    assert document.title == "ls(1)"
    assert document.metadata == {"date": "May 2024"}
    assert [s.headings for s in document.sections] == [
        ("NAME",),
        ("OPTIONS",),
        ("OPTIONS", "Common"),
    ]
    assert document.text.endswith("-a, --all\ndo not ignore entries\n\n-l\nlong\n\nEnd.")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("\\fBbold\\fP \\f[I]it\\fR \\f(CWx\\fR", "bold it x"),
        ("a\\(bub\\[em]c\\(co \\[u00E9] \\['e]", "a•b—c© é é"),
        ("\\s-1SMALL\\s0 \\s+2big\\s0", "SMALL big"),
        ("\\*(lqquoted\\*(rq \\e \\~x\\ y", "“quoted” \\ x y"),
        ("a\\h'1m'b\\v'2'c\\w'x'd", "a bcd"),
        ('text \\" remark', "text"),
        ("\\&.TH is a macro", ".TH is a macro"),
        ("one\\\ntwo", "onetwo"),
    ],
)
def test_escapes_become_characters(source: str, text: str) -> None:
    assert body(source) == text


def test_examples_keep_their_lines() -> None:
    assert body("Run\n.nf\n  ls -l\n\n  pwd\n.fi\nthen\n") == "Run\n\n  ls -l\n\n  pwd\n\nthen"


def test_items_with_bullets_and_numbers() -> None:
    assert (
        body(".IP \\(bu 2\none\n.IP 2. 4\ntwo\n.IP word\nthree\n")
        == "- one\n\n2. two\n\nword\nthree"
    )


def test_conditions_and_definitions_print_nothing_of_their_own() -> None:
    page = """\
        .ie n .ds D dash
        .el .ds D em
        .de XX \\" a macro
        hidden
        ..
        .if t \\{\\
        hidden
        .if n hidden
        .\\}
        .if n shown \\*D
        .ig
        hidden
        ..
        """
    assert body(textwrap.dedent(page)) == "shown dash"


def test_tables_become_rows_of_cells() -> None:
    page = ".TS\ntab(;) allbox;\nlb l\nl l.\nName;Value\n_\nT{\nlong\nname\nT};1\n.TE\n"
    assert body(page) == "Name | Value\nlong name | 1"


def test_a_page_that_only_points_to_another_says_so() -> None:
    with pytest.raises(DocumentError, match=r"only points to another page, man3/printf\.3"):
        parse_bytes(b".so man3/printf.3\n", name="fprintf.3", source="s")


def test_bsd_man_pages_are_read() -> None:
    document = man(
        """\
        .Dd May 4, 2024
        .Dt LAMP 1
        .Os
        .Sh NAME
        .Nm lamp
        .Nd light the lamp
        .Sh SYNOPSIS
        .Nm
        .Op Fl av
        .Op Fl o Ar file
        .Nm
        .Ar port Ns Oo : Ns Ar host Oc
        .Sh OPTIONS
        .Bl -tag -width Ds
        .It Fl a , Fl -all
        Light all, see
        .Xr wick 1 .
        .It Fl D Xo
        .Sm off
        .Oo Ar host : Oc
        .Ar port
        .Sm on
        .Xc
        Sets
        .Dq "the port"
        .Pq default: Ql 22 .
        .El
        .Bl -bullet
        .It
        one
        .El
        .Bd -literal
        $ lamp  -a
        .Ed
        """
    )
    assert document.title == "lamp(1)"
    assert document.text.split("\n\n") == [
        "NAME",
        "lamp — light the lamp",
        "SYNOPSIS",
        "lamp [-av] [-o file]\nlamp port[:host]",
        "OPTIONS",
        "-a, --all\nLight all, see wick(1).",
        "-D [host:]port\nSets “the port” (default: ‘22’).",
        "- one",
        "$ lamp  -a",
    ]


# --- mail --------------------------------------------------------------------------------------


def mail(message: EmailMessage) -> Document:
    if message["Subject"] is None:
        message["Subject"] = "Hello"
    return parse_bytes(message.as_bytes(), name="a.eml", source="s")


def test_the_plain_text_of_a_mail_is_preferred_to_its_html() -> None:
    message = EmailMessage()
    message.set_content("Plain.\n")
    message.add_alternative("<p>Rich.</p>", subtype="html")
    assert mail(message).text == "Hello\n\nPlain."


def test_html_is_read_when_there_is_nothing_else() -> None:
    message = EmailMessage()
    message.set_content("<h1>News</h1><p>Rich <b>text</b>.</p><script>x</script>", subtype="html")
    document = mail(message)
    assert document.text == "Hello\n\nNews\n\nRich text."
    assert document.sections[-1].headings == ("Hello", "News")


def test_headers_are_decoded_and_attachments_named() -> None:
    message = EmailMessage()
    message["From"] = "Zoë <zoe@example.org>"
    message["Subject"] = "Größe"
    message["Date"] = "Mon, 06 May 2024 08:30:00 +0200"
    message.set_content("Größe: 5 m", charset="iso-8859-1")
    message.add_attachment(b"x", maintype="image", subtype="png", filename="Plan é.png")
    document = mail(message)
    assert document.title == "Größe"
    assert document.metadata["from"] == "Zoë <zoe@example.org>"
    assert document.metadata["date"] == "2024-05-06T08:30:00+02:00"
    assert document.text.endswith("Größe: 5 m\n\nAttachments: Plan é.png")


def test_a_forwarded_mail_is_a_section_of_its_own() -> None:
    inner = EmailMessage()
    inner["Subject"] = "Origin"
    inner.set_content("First.")
    message = EmailMessage()
    message.set_content("See below.")
    message.add_attachment(inner)
    document = mail(message)
    assert document.text == "Hello\n\nSee below.\n\nOrigin\n\nFirst."
    assert document.sections[-1].headings == ("Hello", "Origin")


def test_a_mailbox_holds_several_mails() -> None:
    box = "".join(
        f"From a@b Mon May  6 08:30:00 2024\nSubject: Mail {n}\n\nBody {n}.\n>From here on.\n\n"
        for n in (1, 2)
    )
    document = parse_bytes(box.encode(), name="inbox", source="s")
    assert document.format == "mbox"
    assert document.text == "Mail 1\n\nBody 1.\nFrom here on.\n\nMail 2\n\nBody 2.\nFrom here on."
    assert [s.headings for s in document.sections] == [("Mail 1",), ("Mail 2",)]


def test_flowed_text_flows() -> None:
    head = b"Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; format=flowed\n\n"
    data = head + b"One \ntwo.\nThree.\n"
    assert parse_bytes(data, name="a.eml", source="s").text == "x\n\nOne two.\nThree."
