"""What was asked of a backbone is what is trained, and what it does not have is refused, never dropped."""

import json

import pytest

from lgbench.errors import UserError
from lgbench.plan.config import load_config


def params(cell):
    return json.loads(cell.training.backbone_params)


def test_a_task_suggests_sizes_where_the_backbone_has_them(toy_cells):
    mamba, decoder = toy_cells("vanilla", backbone=["mamba", "decoder"])
    assert params(mamba) == {"d_state": 4} and params(decoder) == {}
    assert mamba.recipe.sizes == mamba.training.recipe.sizes == ()


def test_what_is_asked_for_wins_and_a_list_is_a_grid(toy_cells):
    cells = toy_cells("vanilla", backbone=["mamba[conv_width=[0,3],d_state=6]", "mamba2"])
    assert [params(c) for c in cells] == [{"d_state": 6}, {"conv_width": 3, "d_state": 6}, {"d_state": 4}]
    assert [c.backbone_label for c in cells] == ["mamba[conv_width=0]", "mamba[conv_width=3]", "mamba2"]
    assert len({c.training.key for c in cells}) == 3


def test_a_parameter_at_its_default_is_the_same_training(toy_cells):
    plain, said = (toy_cells("vanilla", backbone=[b])[0] for b in ("mamba", "mamba[expand=2,d_state=4]"))
    assert plain.key == said.key and plain.training.key == said.training.key


def test_the_state_size_is_an_axis_of_backbones_that_have_one(toy_cells):
    assert [params(c) for c in toy_cells("vanilla", d_state=[2, 8])] == [{"d_state": 2}, {}]
    with pytest.raises(
        UserError, match=r"--d-state 2: backbone 'encoder_decoder' has no such size. It takes: num_"
    ):
        toy_cells("transformer", d_state=[2, 8])


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("mamba[heads=3]", "backbone 'mamba' has no parameter 'heads'. It has: d_state"),
        ("mamba[d_state=0]", "d_state must be at least 1"),
        ("rnn", "no backbone 'rnn'"),
        ("decoder[position=far]", "position must be rope or alibi"),
    ],
)
def test_what_a_backbone_does_not_take_is_refused(toy_cells, backbone, words):
    with pytest.raises(UserError) as caught:
        toy_cells("vanilla", backbone=[backbone])
    assert words in str(caught.value)


def test_a_method_that_decides_a_parameter_is_not_contradicted(toy_cells):
    (cell,) = toy_cells("decoder_transformer[position=alibi]", backbone=["decoder[num_heads=2]"])
    assert params(cell) == {"num_heads": 2, "position": "alibi"}
    with pytest.raises(UserError, match="the method decides position, alibi here; leave it out"):
        toy_cells("decoder_transformer[position=alibi]", backbone=["decoder[position=nope]"])


def test_pairs_that_do_not_apply_leave_the_rest_to_run(toy_cells, run_toy):
    cells = toy_cells(
        "vanilla", "decoder_transformer", "transformer", backbone=["mamba", "mamba2"], train_steps=[2]
    )
    assert {(c.method, c.training.backbone) for c in cells if not c.left_out} == {
        ("vanilla", "mamba"), ("vanilla", "mamba2")
    }  # fmt: skip
    outcome, store = run_toy(cells)
    assert outcome.finished == 2 and not outcome.failed
    from lgbench.store import read

    rows = read([store.root]).table.to_pylist()
    skipped = {(r["method"], r["backbone"]): r["reason"] for r in rows if r["status"] == "skipped"}
    assert len(skipped) == 4 and "It runs on: decoder" in skipped["decoder_transformer", "mamba2"]


def test_methods_without_hooks_run_on_every_backbone_and_a_length_token_where_there_is_a_sequence(toy_cells):
    names = ["mamba", "mamba2", "decoder", "encoder_decoder"]
    cells = toy_cells("vanilla", "last_window", "expanded", "truncated", "prepended", backbone=names)
    out = [(c.method, c.training.backbone) for c in cells if c.left_out]
    assert out == [("prepended", "encoder_decoder")]


def test_brackets_and_lists_are_read_on_the_command_line_and_in_yaml():
    wanted = [("mamba", {"d_state": 4}), ("mamba", {"d_state": 8}), ("decoder", {})]
    for given in ("mamba[d_state=[4,8]],decoder", {"mamba": {"d_state": [4, 8]}, "decoder": None}):
        asked = load_config(None, {"backbone": given}).axes()["backbone"]
        assert [(one.name, dict(one.params)) for one in asked] == wanted
