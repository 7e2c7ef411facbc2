"""`lgbench claims --run` lets a probe look into the cells of a claim, and judges from what it kept."""

import pytest
from typer.testing import CliRunner

from lgbench import claims, cli, cli_run
from lgbench.claims.claim import Claim, within
from lgbench.claims.model import Model
from lgbench.claims.quantities import reading
from lgbench.claims.readings import Look
from lgbench.store.readings import all_readings

MODEL = Model(task="omniglot", metric="MSE", preset="smoke", seeds=1, train_length=16, train_steps=2)


def claim_of(model):
    look = Look(probe="delta_norm[first=4]", model=model, lengths=(4, 8), items=2)
    part = within(reading(look, "spread between lengths"), -1e-5, 1e-5)
    return Claim(id="steps", source="our own", statement="Steps do not know the length.", parts=(part,))


@pytest.fixture
def run(monkeypatch):
    """`run(claim, folder, …)` → exit code and output of `lgbench claims --run`; nothing can be trained."""
    monkeypatch.setattr(cli_run, "run", None)

    def command(claim, *roots, options=()):
        monkeypatch.setattr(claims, "find_claim", lambda name: claim)
        folders = [word for root in roots for word in ("--results", str(root))]
        words = ["claims", "--run", claim.id, "--device", "cpu", *folders, *options]
        done = CliRunner().invoke(cli.app, words, env={"COLUMNS": "200"})
        assert not done.exception or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    return command


def test_a_run_looks_once_and_the_claim_is_judged_from_it(run, trained, tmp_path):
    code, output = run(claim_of(MODEL), tmp_path, trained, options=["--dry-run"])
    assert code == 0 and "probe delta_norm[first=4]: vanilla, L_train 16, seed 0, lengths 4, 8, 2" in output
    assert all_readings([tmp_path]) == {}
    code, output = run(claim_of(MODEL), tmp_path, trained)
    assert code == 0 and "one seed says nothing" in output, output
    [(path, found)] = all_readings([tmp_path]).items()
    assert found.facts["probe_label"] == "delta_norm[first=4]" and str(path) in output
    code, output = run(claim_of(MODEL), tmp_path, trained)
    assert code == 0 and "Nothing of steps has to be run." in output
    assert "steps: undecided" in output and f"{found.value('spread between lengths'):.3g}" in output.replace(
        "−", "-"
    )


def test_rows_in_one_folder_and_weights_in_another_do_for_a_look(run, trained, tmp_path):
    (tmp_path / "rows").symlink_to(trained / "rows")
    code, output = run(claim_of(MODEL), tmp_path, trained)
    assert code == 0 and len(all_readings([tmp_path])) == 1, output


def test_weights_that_are_not_there_are_named_before_any_work(run, trained, tmp_path):
    (tmp_path / "rows").symlink_to(trained / "rows")
    code, output = run(claim_of(MODEL), tmp_path)
    assert code == 2 and output.startswith("lgbench: --run steps: its probes need weights that are not in")
    assert "vanilla, L_train 16, seed 0" in output and "lgbench claims --run steps --results runs" in output
