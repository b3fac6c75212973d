"""Reports: self-contained, escaped, and the same bytes each time."""

from pathlib import Path

from fti.common.report import Report, new_figure


def page(path: Path, label: str) -> str:
    report = Report(title=label, verdict="blessed", good=True)
    report.facts({"rows": 1234567})
    report.table(["name", "share"], [(label, 0.25)])
    figure = new_figure()
    figure.add_subplot().bar([label], [1])
    report.figures(figure, captions=[label])
    report.write(path)
    return path.read_text()


def test_what_the_data_say_is_text_never_markup(tmp_path: Path) -> None:
    text = page(tmp_path / "r", "<script>$5^$</script>")
    assert "<script>" not in text
    assert "$5^$" in text


def test_a_page_needs_nothing_from_elsewhere_and_is_the_same_each_time(tmp_path: Path) -> None:
    text = page(tmp_path / "one", "x")
    assert "1,234,567" in text
    assert " src=" not in text and "<link" not in text
    assert text == page(tmp_path / "two", "x")
