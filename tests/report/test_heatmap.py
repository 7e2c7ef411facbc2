"""Depth × length heat maps, against cells worked out by hand."""

import numpy as np
import pytest
from matplotlib.colors import LogNorm
from matplotlib.text import Text

from lgbench.report import heatmap
from lgbench.report.curves import load
from lgbench.report.heatmap import depth_cells, depth_figure
from lgbench.report.page import build_report
from lgbench.report.style import looks
from lgbench.stats.intervals import wilson_interval

ACCURACY = {"task": "passkey", "metric": "accuracy", "higher_is_better": True, "best": 1.0, "chance": 0.0}
DEPTHS = [0.0, 0.5, 1.0] * 4
LENGTHS = (512, 1024, 2048, 4096)


def right_at(length, forgets_before=0.5):
    """Everything is right up to 1,024 tokens; beyond, what lies before `forgets_before` is lost."""
    return [1.0 if length <= 1024 or depth >= forgets_before else 0.0 for depth in DEPTHS]


def store_grid(items, root, label="vanilla", seed=0, forgets_before=0.5, lengths=LENGTHS, **columns):
    values = {length: right_at(length, forgets_before) for length in lengths}
    facts = {length: {"depth": DEPTHS} for length in lengths}
    columns = ACCURACY | {"method": label.split("[")[0], "label": label} | columns
    return items(root, values, facts, seed=seed, **columns)


def board_of(root):
    (board,) = load([root]).boards
    return board


def test_a_cell_is_the_mean_over_items_of_one_depth_and_over_seeds(root, items):
    store_grid(items, root, seed=0, forgets_before=0.5)
    store_grid(items, root, seed=1, forgets_before=1.0)
    cells = depth_cells(board_of(root)).set_index(["depth", "eval_length"])
    assert cells.loc[(0.0, 512), "value"] == 1
    assert cells.loc[(0.0, 2048), "value"] == 0
    assert cells.loc[(0.5, 2048), "value"] == 0.5
    assert cells.loc[(1.0, 4096), "value"] == 1
    assert set(cells["num_seeds"]) == {2} and set(cells["num_items"]) == {4}


def test_a_cell_of_right_answers_alone_has_wilsons_interval_of_its_distinct_items(root, items):
    for seed in range(3):
        store_grid(items, root, seed=seed)
    cells = depth_cells(board_of(root)).set_index(["depth", "eval_length"])
    assert cells.loc[(1.0, 4096), ["low", "high"]].tolist() == pytest.approx(wilson_interval(1.0, 4))
    assert cells.loc[(0.0, 4096), ["low", "high"]].tolist() == pytest.approx(wilson_interval(0.0, 4))


def test_places_of_documents_become_depths_in_tenths(root, items):
    places = {11: list(range(11)), 31: list(range(31))}
    values = {length: [float(place == 0) for place in found] for length, found in places.items()}
    facts = {length: {"place": found} for length, found in places.items()}
    items(root, values, facts, **ACCURACY | {"length_unit": "documents", "train_length": 11})
    cells = depth_cells(board_of(root)).set_index(["depth", "eval_length"])["value"]
    assert sorted(cells.index.get_level_values("depth").unique()) == pytest.approx(np.arange(0.05, 1, 0.1))
    assert (
        cells[0.05, 11] == 1
        and cells[0.05, 31] == pytest.approx(1 / 3)
        and cells.drop(0.05, level="depth").sum() == 0
    )


def test_rows_without_depths_have_no_heat_map(root, store):
    store(root)
    assert depth_cells(board_of(root)).empty


def test_numbers_colours_and_the_end_of_training_are_drawn_in_every_panel(root, items):
    for label in ("vanilla", "longer"):
        store_grid(items, root, label=label)
    board = board_of(root)
    figure = depth_figure(board, depth_cells(board))
    panels = [axes for axes in figure.axes if axes.images]
    assert [panel.get_title(loc="left") for panel in panels] == ["vanilla", "longer"]
    for panel in panels:
        texts = [text.get_text() for text in panel.texts]
        assert texts == ["1.00", "1.00", ".00", ".00", *["1.00"] * 8]
        (line,) = panel.lines
        assert list(line.get_xdata()) == [1.5, 1.5]
        assert panel.images[0].get_clim() == (0, 1)
    assert len(figure.axes) == len(panels) + 1
    assert "–: not measured" in " ".join(text.get_text() for text in figure.texts)


@pytest.mark.parametrize(
    ("num_methods", "columns"), [(1, 1), (3, 3), (4, 2), (5, 3), (7, 3)], ids="{} methods".format
)
def test_panels_stand_in_rows_of_at_most_three(root, items, num_methods, columns):
    for index in range(num_methods):
        store_grid(items, root, label=f"method_{index}[with_a_parameter=0.5,and_another_one=1000,x=1]")
    board = board_of(root)
    figure = depth_figure(board, depth_cells(board))
    with looks():
        figure.canvas.draw()
        titles = [
            text.get_window_extent() for text in figure.findobj(Text) if text.get_text().startswith("method_")
        ]
    assert len(titles) == num_methods
    assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[i + 1 :])
    assert all(box.x1 <= figure.bbox.x1 for box in titles)
    boxes = [axes.get_position() for axes in figure.axes if axes.images]
    assert len({round(box.x0, 4) for box in boxes}) == columns
    assert len({round(box.y0, 4) for box in boxes}) == -(-num_methods // columns)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_perplexities_share_a_logarithmic_scale_on_which_low_is_bright(root, items):
    values = {length: np.log([2.0, 4.0, 8.0] * 4).tolist() for length in LENGTHS}
    facts = {length: {"depth": DEPTHS} for length in LENGTHS}
    items(root, values, facts, metric="perplexity", combine="exp_mean", best=1.0, chance=20.0)
    board = board_of(root)
    cells = depth_cells(board)
    assert sorted(cells["value"].unique()) == pytest.approx([2, 4, 8])
    image = next(axes.images[0] for axes in depth_figure(board, cells).axes if axes.images)
    assert isinstance(image.norm, LogNorm)
    brightness = [sum(image.cmap(image.norm(value))[:3]) for value in (2, 4, 8)]
    assert brightness == sorted(brightness, reverse=True)


def test_page_has_the_heat_map_and_its_numbers_with_intervals(root, items):
    store_grid(items, root)
    report = build_report([root], root / "report")
    assert any(path.name.endswith("accuracy-depth.svg") for path in report.figures)
    page = report.html.read_text()
    assert "accuracy of vanilla by depth (lines) and tokens (columns)" in page
    assert "[0.510, 1.000]" in page and "an interval is at least Wilson’s" in page


def test_a_long_name_is_broken_between_its_parameters_and_stays_what_can_be_typed():
    name = "decimamba[layers=[[1]],l_base=1024,train_with=true]"
    assert heatmap._wrapped(name, 60) == name
    assert heatmap._wrapped(name, 40).split("\n") == [
        "decimamba[layers=[[1]],l_base=1024,",
        "train_with=true]",
    ]
    for per_line in (12, 20, 30):
        lines = heatmap._wrapped(name, per_line).split("\n")
        assert "".join(lines) == name and max(map(len, lines)) <= per_line
    assert heatmap._wrapped("vanilla (LM weight 0.1)", 12) == "vanilla (LM\nweight 0.1)"
