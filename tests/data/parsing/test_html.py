from pharos.data.parsing import parse_bytes


def read(html: str) -> str:
    return parse_bytes(html.encode(), name="page.html", source="s").text


def paths(html: str) -> list[tuple[str, ...]]:
    return [s.headings for s in parse_bytes(html.encode(), name="page.html", source="s").sections]


def test_what_surrounds_the_text_is_left_out() -> None:
    page = """<body><header>Site</header><nav>Prev Up Next</nav><div class="toc">1. Contents</div>
    <aside>Advert</aside><form>Search</form><p>The text.</p><div role="navigation">More</div>
    <p hidden>Hidden</p><p style="display: none">Gone</p><footer>© 2024</footer></body>"""
    assert read(page) == "The text."


def test_the_main_element_is_preferred() -> None:
    page = "<body><div>Cookies?</div><main><h1>T</h1><p>Long enough text.</p></main><p>x</p></body>"
    assert read(page) == "T\n\nLong enough text."


def test_a_main_element_that_holds_next_to_nothing_is_not() -> None:
    page = f"<main><p>a</p></main><div><p>{'The real text. ' * 20}</p></div>"
    assert "The real text." in read(page)


def test_a_page_of_nothing_but_boilerplate_is_read_all_the_same() -> None:
    assert read("<nav><a href='/a'>Only links</a></nav>") == "Only links"


def test_heading_paths_follow_the_levels() -> None:
    page = "<h1>A</h1>x<h2>B</h2>y<h3>C</h3>z<h2>D</h2>w<h1>E</h1>v"
    assert paths(page) == [("A",), ("A", "B"), ("A", "B", "C"), ("A", "D"), ("E",)]


def test_permalinks_are_no_part_of_a_heading() -> None:
    page = '<h2>Install<a class="headerlink" href="#i">¶</a></h2><h2>Use <a href="#u">#</a></h2>z'
    assert [s[-1] for s in paths(page)] == ["Install", "Use"]


def test_a_note_opens_no_section() -> None:
    page = '<h1>A</h1><p>x</p><div class="note"><h3>Note</h3><p>y</p></div><p>z</p>'
    assert paths(page) == [("A",)]
    assert read(page) == "A\n\nx\n\nNote\n\ny\n\nz"


def test_the_title_is_the_heading_that_the_site_adds_its_name_to() -> None:
    page = "<title>Install — Handbook 3.1</title><h1>Install</h1><p>x</p>"
    assert parse_bytes(page.encode(), name="a.html", source="s").title == "Install"
    assert parse_bytes(b"<title>T</title><p>x</p>", name="a.html", source="s").title == "T"


def test_code_keeps_its_lines_and_indents() -> None:
    assert read("<pre>\nif x:\n    <b>y</b> = 1\n\n    z\n</pre>") == "if x:\n    y = 1\n\n    z"


def test_tables_become_rows_of_cells() -> None:
    page = """<table><caption>Fares</caption><tr><th>City</th><th>Fare</th></tr>
    <tr><td rowspan="2">Oslo</td><td>10<br>EUR</td></tr><tr><td>12</td></tr></table>"""
    assert read(page) == "Fares\n\nCity | Fare\nOslo | 10 EUR\nOslo | 12"


def test_a_table_for_layout_is_read_as_text() -> None:
    page = "<table><tr><td>Menu</td><td><h1>Title</h1><p>One.</p><p>Two.</p></td></tr></table>"
    assert read(page) == "Menu\n\nTitle\n\nOne.\n\nTwo."
    inner = "<table><tr><td>a</td><td>b</td></tr></table>"
    assert read(f"<table><tr><td>x</td><td>{inner}</td></tr></table>") == "x\n\na | b"


def test_lists_are_marked_and_nested() -> None:
    page = "<p>Do:</p><ol start=3><li>one<ul><li>a</li><li>b</li></ul></li><li>two</li></ol>"
    assert read(page) == "Do:\n\n3. one\n  - a\n  - b\n4. two"


def test_definitions_stand_below_their_terms() -> None:
    page = "<dl><dt>-a</dt><dd><p>All.</p><p>Really.</p></dd><dt>-b</dt><dd>Brief.</dd></dl>"
    assert read(page) == "-a\nAll.\n\nReally.\n\n-b\nBrief."


def test_exponents_stay_exponents() -> None:
    assert read("<p>10<sup>6</sup> m<sup>2</sup>, the 1<sup>st</sup>") == "10^6 m^2, the 1st"
    assert read('<p>Stated.<sup><a href="#f">1</a></sup>') == "Stated.1"


def test_blanks_collapse_and_line_breaks_stay() -> None:
    assert read("<p>one\n  two<br>three&nbsp;four <b>fi</b>ve</p>") == "one two\nthree four five"


def test_the_charset_is_found() -> None:
    for encoding in ("utf-8", "windows-1251", "shift_jis", "koi8-r"):
        word = "日本語" if encoding == "shift_jis" else "Привет"
        page = f'<meta charset="{encoding}"><p>{word}</p>'.encode(encoding)
        assert parse_bytes(page, name="a.html", source="s").text == word


def test_unclosed_and_misnested_tags_are_read() -> None:
    assert read("<p>a<p>b<ul><li>x<li>y</ul><b>c<i>d</b>e</i>") == "a\n\nb\n\n- x\n- y\n\ncde"
