"""The table, the summary and the JUnit file of a gate."""

from xml.etree import ElementTree

import pytest

from lgbench.answers.regress import Check
from lgbench.answers.verdicts import append_summary, moved, sentence, write_junit
from lgbench.errors import UserError

CHECKS = [
    Check(kind="quality", what="a", before=0.8, now=0.7, limit=0.79, verdict="regression"),
    Check(kind="cell", what="b | <c>\x00", verdict="failed", note="boom"),
    Check(kind="speed", what="d", before=2.0, now=2.0, limit=2.3),
    Check(kind="speed", what="e", now=2.0, verdict="new"),
]


def test_junit_has_a_case_a_check_and_counts_that_agree(tmp_path):
    write_junit(tmp_path / "j.xml", "tiny", CHECKS)
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    cases = root.findall("testsuite/testcase")
    assert [case.get("name") for case in cases] == ["a", "b | <c>?", "d", "e"]
    assert [[child.tag for child in case] for case in cases] == [["failure"], ["error"], [], ["skipped"]]
    counts = {name: root.find("testsuite").get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    assert "0.7000" in cases[0][0].get("message")


def test_a_summary_is_appended_as_one_table(tmp_path):
    path = tmp_path / "new" / "summary.md"
    append_summary(path, "tiny", CHECKS)
    append_summary(path, "tiny", CHECKS)
    text = path.read_text()
    assert text.count("## tiny") == 2 and r"b \| &lt;c>" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * 6 and {line.replace(r"\|", "").count("|") for line in rows} == {7}


def test_files_that_cannot_be_written_are_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        append_summary(tmp_path, "tiny", CHECKS)
    with pytest.raises(UserError, match="cannot write"):
        write_junit(tmp_path, "tiny", CHECKS)


def test_it_is_said_in_one_sentence_and_what_moved_line_by_line():
    assert sentence(CHECKS) == "4 checks: 1 regression, 1 failed, 1 new, 1 ok"
    assert moved(CHECKS) == ["moved: quality, a: 0.8000 → 0.7000, regression", "new: speed, e: 2.0000"]
