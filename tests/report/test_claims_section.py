"""The report shows the claims that its rows say something about, and no others."""

from lgbench.report.page import build_report

SETTING = {"metric": "MSE", "learning_rate": 2e-3, "lm_weight": 0.0}


def test_claims_that_rows_decide_are_in_the_report(root, store):
    for seed in range(3):
        store(root, lambda n: 0.1 * max(1, n / 1024) ** 0.05, seed=seed, **SETTING)
    page = build_report([root], root / "report").html.read_text(encoding="utf-8")
    section = page[page.index('<h2 id="claims">') :]
    section = section[: section.index("</section>")]
    assert section.count("<tr>") == 2 and "short_no_collapse" in section
    assert "holds" in section and "claimed" in section


def test_a_report_that_decides_no_claim_has_no_such_section(root, store):
    store(root)
    page = build_report([root], root / "report").html.read_text(encoding="utf-8")
    assert 'id="claims"' not in page and 'href="#claims"' not in page
