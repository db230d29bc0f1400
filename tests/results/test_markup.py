from html.parser import HTMLParser

from cmarr_jax.results import markup

NASTY = "<script>alert(1)</script> & \"q\" 'a'"


class Words(HTMLParser):
    """The tags that a parser sees, and the text between them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data + " "


def test_every_piece_escapes_every_text():
    pieces = {
        "page": markup.page(NASTY, NASTY, [(NASTY, NASTY)], "").decode(),
        "section": markup.section(NASTY, NASTY),
        "paragraph": markup.paragraph(NASTY),
        "bullets": markup.bullets([NASTY]),
        "details": markup.details(NASTY, ""),
        "facts": markup.facts({NASTY: NASTY}),
        "table": markup.table(NASTY, [NASTY, NASTY], [[NASTY, NASTY]]),
        "figure": markup.figure([], NASTY, "one"),
    }
    for name, html in pieces.items():
        seen = Words(html)
        assert "script" not in {tag for tag, _ in seen.tags}, name
        assert NASTY in seen.text, name


def test_a_table_names_its_rows_and_columns_and_sets_numbers_apart():
    html = markup.table("c", ["name", "score", "word"], [["a", "1.5", "x"], ["b", "", "2y"]])
    cells = [(tag, a) for tag, a in Words(html).tags if tag in ("th", "td")]
    assert [a.get("scope") for tag, a in cells if tag == "th"] == ["col"] * 3 + ["row"] * 2
    kinds = [a.get("class") for tag, a in cells if tag == "td"]
    assert kinds == ["number", None, "number", None]


def test_text_that_utf8_lacks_does_not_stop_the_page():
    assert b"a?b" in markup.page("a\ud800b", "", [], "")
