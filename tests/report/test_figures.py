"""What figures show, read from their artists; how they look was judged by eye."""

import numpy as np
import pytest
from matplotlib.text import Text

from lgbench.errors import UserError
from lgbench.report.budget import cost_figures, has_steps, steps_figure
from lgbench.report.curves import load
from lgbench.report.figures import curve_figure
from lgbench.report.style import COLOURS, MARKERS, line_styles, looks, save, styled
from lgbench.report.vertical import spread, vertical_range

NOTICE = "The images are procedural glyphs, not Omniglot: do not compare with published numbers."


def all_text(figure):
    return " ".join(artist.get_text() for artist in figure.findobj(Text))


def board_of(root):
    (board,) = load([root]).boards
    return board


def test_every_method_is_in_the_legend_with_its_own_colour_and_marker(root, store):
    for label in ("vanilla", "prepended", "truncated[low=512]"):
        store(root, label=label)
    figure = curve_figure(board_of(root), "context")
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:3] == ["vanilla", "prepended", "truncated[low=512]"]
    assert len({line.get_color() for line in legend.get_lines()[:3]}) == 3
    assert len({line.get_marker() for line in legend.get_lines()[:3]}) == 3


def test_looks_are_distinct_for_forty_methods_and_the_baseline_is_black():
    names = ["vanilla", *(f"method_{index:02d}" for index in range(40))]
    styles = line_styles(names, {name: name for name in names})
    assert len({(style["color"], style["marker"]) for style in styles.values()}) == 41
    assert styles["vanilla"]["color"] == "#000000"
    assert len({*COLOURS}) == len({*MARKERS}) == 10


def test_a_method_looks_alike_in_every_figure_of_a_report(root, store):
    for label in ("vanilla", "a", "b", "c"):
        store(root, label=label, method=label)
    for label in ("vanilla", "c"):
        store(root, label=label, method=label, task="passkey")
    first, second = load([root]).boards
    assert [*second.styles] == ["vanilla", "c"]
    assert second.styles["c"] == first.styles["c"] and second.styles["vanilla"] == first.styles["vanilla"]


def test_variants_of_a_method_share_its_colour_and_differ_in_their_dashes():
    styles = line_styles(["m", "m[k=1]"], {"m": "m", "m[k=1]": "m[k=1]"})
    assert styles["m"]["color"] == styles["m[k=1]"]["color"]
    assert styles["m"]["linestyle"] != styles["m[k=1]"]["linestyle"]


def test_a_second_panel_shows_differences_to_the_baseline_on_the_same_seeds(root, store):
    for seed in range(3):
        store(root, lambda length: 0.1205, seed=seed)
        store(root, lambda length: 0.0964, seed=seed, label="better", method="better")
    beside = board_of(root).beside
    assert set(beside["series"]) == {"better"} and set(beside["baseline"]) == {"vanilla"}
    assert beside["value"].to_numpy() == pytest.approx(0.1, rel=0.1)  # (0.1205 − 0.0964) / 0.241
    assert (beside["low"] > 0).all() and (beside["num_seeds"] == 3).all()
    lower = curve_figure(board_of(root), "context").axes[1]
    assert lower.get_ylabel() == "score − vanilla"


def test_a_style_file_changes_figures_on_purpose_and_one_that_sets_nothing_is_refused(root, store, tmp_path):
    store(root)
    style = tmp_path / "column.mplstyle"
    style.write_text("figure.figsize: 3.3, 2.5\n")
    with styled(style):
        assert curve_figure(board_of(root), "context").get_figwidth() == pytest.approx(3.3)
    assert curve_figure(board_of(root), "context").get_figwidth() == pytest.approx(7)
    with pytest.raises(UserError, match="no style file"), styled(tmp_path / "none.mplstyle"):
        pass
    style.write_text("# nothing\n")
    with pytest.raises(UserError, match="sets nothing"), styled(style):
        pass


def test_procedural_data_are_named_in_red_on_every_figure(root, store):
    store(root, data_source="procedural", notice=NOTICE, steps=[100, 20000])
    store(root, data_source="procedural", notice=NOTICE, axis="queries")
    board = board_of(root)
    figures = [curve_figure(board, "context"), curve_figure(board, "queries"), steps_figure(board)]
    for figure in [*figures, next(cost_figures(board))[2]]:
        red = [text for text in figure.findobj(Text) if text.get_color() == "#B00020"]
        assert " ".join(text.get_text() for text in red) == NOTICE


def test_footer_tells_data_seeds_items_and_steps(root, store):
    for seed in range(3):
        store(root, seed=seed)
    text = all_text(curve_figure(board_of(root), "context"))
    for fact in ("data: omniglot-small", "3 seeds", "40 evaluation items", "20,000 training steps"):
        assert fact in text
    assert "1,024 predictions an item" in text


def test_chance_other_references_and_best_are_named(root, store):
    store(root, references={"chance": 0.241, "all_white": 0.264})
    text = all_text(curve_figure(board_of(root), "context"))
    for label in ("chance 0.241", "all white 0.264", "best possible 0"):
        assert label in text


def test_lengths_are_on_a_log2_axis_with_readable_ticks(root, store):
    store(root)
    (axes,) = curve_figure(board_of(root), "context").axes
    assert axes.get_xscale() == "log"
    ticks = [axes.xaxis.get_major_formatter()(value) for value in axes.xaxis.get_majorticklocs()]
    assert ticks == ["1", "4", "16", "64", "256", "1K", "4K", "16K", "32K"]


def test_curve_that_explodes_is_clipped_marked_and_told(root, store):
    store(root, lambda length: 0.2 if length < 8192 else 1e6, label="explodes")
    store(root, label="vanilla")
    board = board_of(root)
    figure = curve_figure(board, "context")
    assert figure.axes[0].get_ylim()[1] < 1.6 * 0.241
    assert "Off the axis (arrows), at most: explodes, 1.01e+06 at 8K" in all_text(figure)
    arrows = [
        line for line in figure.axes[0].lines if line.get_marker() == "^" and line.get_linestyle() == "None"
    ]
    assert [len(arrow.get_xdata()) for arrow in arrows] == [3]


def test_common_training_range_is_shaded_and_another_one_is_marked(root, store):
    for label in ("a", "b"):
        store(root, label=label)
    store(root, label="expanded", train_high=4096)
    figure = curve_figure(board_of(root), "context")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[-2:] == ["training range 1–1K", "end of another training range"]
    dashes = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [4096, 4096]]
    assert [line.get_color() for line in dashes] == [board_of(root).styles["expanded"]["color"]]


def test_axis_of_an_accuracy_ends_above_one_and_that_of_tiny_losses_is_logarithmic(root, store):
    accuracy = {"higher_is_better": True, "best": 1.0, "chance": 0.1, "metric": "accuracy"}
    store(root, lambda length: 1 / np.log2(length + 1), **accuracy)
    curve = board_of(root).curve("context")
    limits = vertical_range(curve, True)
    assert not limits.is_log
    assert 1 < limits.top < 1.1
    assert 0 < limits.bottom < curve["low"].min()
    store(root.with_name("loss"), lambda length: 1e-3, chance=5.0, references={"chance": 5.0})
    board = board_of(root.with_name("loss"))
    assert vertical_range(board.curve("context"), False).is_log
    assert "best possible value, 0, is below the axis" in all_text(curve_figure(board, "context"))


def test_labels_are_moved_apart_and_stay_where_they_have_room():
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert np.diff(spread([0.2, 0.21, 0.29, 0.9], 0.1)) == pytest.approx([0.1, 0.1, 0.9 - 1 / 3], abs=1e-9)


def test_steps_have_a_panel_a_length_around_the_training_length(root, store):
    store(root, steps=[1000, 5000, 20000])
    store(root, label="once")
    board = board_of(root)
    assert has_steps(board)
    figure = steps_figure(board)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["at 256 tokens", "at 1K tokens", "at 4K tokens", "at 16K tokens"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["vanilla"]


def test_rates_that_nobody_measured_have_no_figure(root, store):
    store(root, train_tokens_per_s=None, eval_tokens_per_s=None)
    assert list(cost_figures(board_of(root))) == []


def test_rates_of_two_devices_are_in_two_figures(root, store):
    store(root, device="A")
    store(root, device="B", seed=1)
    assert [(name, device) for name, device, _ in cost_figures(board_of(root))] == [
        ("cost-1", "A"), ("cost-2", "B"),
    ]  # fmt: skip


def test_no_text_leaves_the_figure_or_covers_other_text(root, store):
    for index in range(9):
        store(root, label=f"method_{index}[parameter=0.5,other=1000]", train_high=2 ** (6 + index))
    store(root, lambda length: 9.0, label="off")
    references = {"chance": 0.241, "best_constant": 0.244, "all_white": 0.25}
    store(root, label="z", references=references, notice=NOTICE * 3)
    figure = curve_figure(board_of(root), "context")
    with looks():
        figure.canvas.draw()
        inside = figure.bbox.padded(1)
        visible = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
        boxes = [(text.get_text(), text.get_window_extent()) for text in visible]
    left, right = figure.axes[0].bbox.x0, figure.axes[0].bbox.x1
    boxes = [(text, box) for text, box in boxes if not (box.x1 < left and box.x0 < 0)]
    for text, box in boxes:
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1, text
        assert inside.y0 <= box.y0 and box.y1 <= inside.y1, text
    for index, (text, box) in enumerate(boxes):
        for other, other_box in boxes[index + 1 :]:
            assert not box.padded(-1).overlaps(other_box.padded(-1)), (text, other)
    assert right < inside.x1


def test_saving_twice_gives_the_same_bytes(root, store, tmp_path):
    store(root)
    board = board_of(root)
    saved = []
    for folder in ("a", "b"):
        saved.append(save(curve_figure(board, "context"), tmp_path / folder / "figure"))
    assert [path.suffix for path in saved[0]] == [".png", ".pdf", ".svg"]
    for first, second in zip(*saved, strict=True):
        assert first.read_bytes() == second.read_bytes()


PERPLEXITY = {"metric": "perplexity", "combine": "exp_mean", "best": 1.0, "chance": 300.0}


def perplexities(values, num_items=8):
    """Length → logarithms of items around these perplexities."""
    noise = np.linspace(-0.1, 0.1, num_items)
    return {length: (np.log(value) + noise).tolist() for length, value in values.items()}


def test_perplexity_is_on_a_logarithmic_axis_that_leaves_out_a_far_chance_and_tells_it(root, items):
    items(root, perplexities({1024: 20.0, 2048: 30.0}), **PERPLEXITY)
    figure = curve_figure(board_of(root), "context")
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert axes.get_yscale() == "log" and 15 < low < 20 and 30 < high < 40
    ticks = [axes.yaxis.get_major_formatter()(tick) for tick in axes.yaxis.get_majorticklocs()]
    assert ticks == ["20", "25", "30"]
    assert "The best possible value, 1, is below the axis. Chance, 300, is above the axis." in all_text(
        figure
    )


def test_perplexity_axis_reaches_to_a_near_chance_and_no_further_than_half_again_its_logarithm(root, items):
    items(root, perplexities({1024: 20.0, 2048: 1e7}), **PERPLEXITY)
    (axes,) = curve_figure(board_of(root), "context").axes
    assert 300**1.5 < axes.get_ylim()[1] < 2 * 300**1.5


def test_lengths_in_documents_are_labelled_as_they_are(root, store):
    store(root, lengths=[11, 20, 40, 80, 300], length_unit="documents", train_length=11, train_low=2,
          train_high=11)  # fmt: skip
    figure = curve_figure(board_of(root), "context")
    (axes,) = figure.axes
    ticks = [axes.xaxis.get_major_formatter()(value) for value in axes.xaxis.get_majorticklocs()]
    assert ticks == ["11", "20", "40", "80", "300"]
    assert axes.get_xlabel() == "context length (documents)"
    assert "training range 2–11" in all_text(figure)


def test_runs_at_several_training_lengths_are_joined_where_they_were_trained(root, items):
    for trained in (1024, 2048, 4096):
        values = {length: 4.0 if length <= trained else 9.0 for length in (1024, 2048, 4096, 8192)}
        items(root, perplexities({trained: trained / 256} | {
            length: value for length, value in values.items() if length != trained
        }), train_length=trained, train_high=trained, **PERPLEXITY)  # fmt: skip
    items(root, perplexities({1024: 5.0}), label="once", **PERPLEXITY)
    figure = curve_figure(board_of(root), "context")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "vanilla, trained at each length" in names and "once, trained at each length" not in names
    line = next(line for line in figure.axes[0].lines if list(line.get_xdata()) == [1024, 2048, 4096]
                and list(line.get_ydata()) == pytest.approx([4, 8, 16]))  # fmt: skip
    assert line.get_linestyle() == "--"


def test_positions_are_steps_from_one_evaluation_length_to_the_next(root, store):
    store(root, lambda length: length / 1e5, lengths=[1024, 2048, 4096], axis="position")
    store(root, lengths=[1024, 2048, 4096])
    board = board_of(root)
    figure = curve_figure(board, "position")
    (axes,) = figure.axes
    stairs = next(line for line in axes.lines if line.get_drawstyle() == "steps-pre")
    assert list(stairs.get_xdata())[1:] == [1024, 2048, 4096]
    assert stairs.get_ydata()[0] == stairs.get_ydata()[1] and stairs.get_ydata()[2] > stairs.get_ydata()[1]
    assert axes.get_xlabel() == "position in the context (tokens, K = 1,024)"
    assert set(board.curve("context")["axis"]) == {"context"}


def test_trainings_at_several_lengths_may_differ_in_batch_unless_that_is_ambiguous(root, items):
    for trained, batch in ((1024, 32), (2048, 16)):
        items(
            root, perplexities({1024: 4.0, 2048: 5.0}), train_length=trained, batch_size=batch, **PERPLEXITY
        )

    def joined():
        names = [text.get_text() for text in curve_figure(board_of(root), "context").legends[0].get_texts()]
        return [name for name in names if "trained at each length" in name]

    assert joined() == ["vanilla, trained at each length"]
    items(root, perplexities({1024: 4.0, 2048: 5.0}), train_length=1024, batch_size=16, **PERPLEXITY)
    assert joined() == ["vanilla (batch 16), trained at each length"]
