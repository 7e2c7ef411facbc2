"""Read results folders and sort their rows into boards: what may be compared on one figure.

A *board* is one task with its parameters, one data set, one preset, one metric. Boards of one task follow one
another, that of its headline metric first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from lgbench.errors import UserError
from lgbench.report.relative import relative
from lgbench.report.series import POINT, SERIES, are_binary, average, name_series
from lgbench.report.style import Styles, line_styles
from lgbench.report.wording import format_length
from lgbench.safe_text import for_file_name
from lgbench.stats.ranking import ROLES
from lgbench.stats.rates import best_rates
from lgbench.stats.rows import INTEGERS, describe_faults, fill_task_facts, find_faults
from lgbench.store import SCHEMA, from_texts, scan

BOARD = ["task", "task_params", "data_source", "data_fingerprint", "preset", "eval_draw", "metric"]
"""Columns that tell boards apart."""
MAX_REASONS = 3
"""Different reasons that are told for one outcome of one method."""
_UNREAD = ["weights_digest", "apply_in_decode", "context_tokens", "kept_tokens"]
_UNREAD += ["ci_low", "ci_high", "std", "item_texts", "calibration_format", "train_scan_backend"]
"""Columns of the store that neither boards nor claims need."""
COLUMNS = [name for name in SCHEMA.names if name not in _UNREAD]
_TEXTS = [name for name in COLUMNS if SCHEMA.field(name).type == pa.string()]


@dataclass(frozen=True, kw_only=True)
class Board:
    """One comparison.

    Attributes:
        rank: 0 for the headline metric of the task; the others follow in the order in which they are stored.
        length_unit: what lengths count, "tokens" or "documents".
        combine: how values of items become one, "mean" or "exp_mean".
        is_binary: whether items are either right or wrong.
        labels: of all methods of the results, which fix colours.
        rows: measured rows of the store, one a seed and point, with `series`, the name of their line, and
            `doubled`, other cells that claim the same measurement, in words.
        missing: rows of these series that have no value, with `series` and `outcome`.
    """

    task: str
    data_source: str
    preset: str
    metric: str
    rank: int
    higher_is_better: bool
    length_unit: str
    combine: str
    is_binary: bool
    notice: str
    title: str
    slug: str
    labels: tuple[str, ...]
    rows: pd.DataFrame
    missing: pd.DataFrame

    @cached_property
    def points(self) -> pd.DataFrame:
        """Means over seeds and items, see `lgbench.report.series.average`."""
        return average(self.rows)

    @cached_property
    def beside(self) -> pd.DataFrame:
        """Differences to the baseline at every length, see `lgbench.report.relative.relative`."""
        return relative(self.rows, self.missing)

    def only(self, names: Collection[str]) -> Board:
        """The part of some series. Their points and differences are those of the whole."""
        part = replace(
            self,
            rows=self.rows[self.rows["series"].isin(names)],
            missing=self.missing[self.missing["series"].isin(names)],
        )
        for known in ("points", "beside"):
            table = getattr(self, known)
            part.__dict__[known] = table[table["series"].isin(names)].reset_index(drop=True)
        return part

    @cached_property
    def series(self) -> list[str]:
        """Names of the lines, the baseline first, then the control."""
        order = self.rows.drop_duplicates("series").sort_values(SERIES, kind="stable")
        places = {name: place for place, name in enumerate(ROLES.values())}
        order["place"] = order["label"].map(places).fillna(len(places))
        return list(order.sort_values("place", kind="stable")["series"])

    @cached_property
    def styles(self) -> Styles:
        """Series → colour, marker and dashes, in the order of `series`."""
        labels = self.rows.drop_duplicates("series").set_index("series")["label"]
        return line_styles(self.labels, {name: labels[name] for name in self.series})

    def curve(self, axis: str) -> pd.DataFrame:
        """Points at the end of training along one axis ("context", "queries" or "position")."""
        found = self.points[(self.points["axis"] == axis) & self.points["is_final"]]
        return found.sort_values("series", key=lambda names: names.map(self.series.index), kind="stable")

    def length(self, length: float) -> str:
        """A length as on an axis."""
        return format_length(length, self.length_unit)

    @property
    def direction(self) -> str:
        """Which values are good: "higher is better" or "lower is better"."""
        return f"{'higher' if self.higher_is_better else 'lower'} is better"


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that a report says.

    Attributes:
        boards: comparisons, in the order of their titles.
        rows: all rows, measured or not, with an `outcome` in words.
        missing: what has no value (diverged, failed, …), one row a method and outcome: `task`, `preset`,
            `method`, `outcome`, `seeds`, `where`, `reason`, all in words. Listed, never averaged.
        left_out: what enters no comparison, and why, a sentence each: unreadable files, faulty rows, cells
            that claim what another one does, runs on other items.
        warnings: what a reader must know, a sentence each; `left_out` is part of it.
    """

    boards: list[Board]
    rows: pd.DataFrame
    missing: pd.DataFrame
    left_out: list[str]
    warnings: list[str]


def load(roots: Sequence[Path], cells: Collection[str] | None = None) -> Results:
    """Read results folders and combine seeds and items.

    With `cells`, keys of cells that have rows, only the boards that these belong to.

    Raises:
        UserError: a folder does not exist, or there is not one readable row in any of them.
    """
    found = scan(roots, COLUMNS)
    rows, left_out = found.rows, [f"Could not read {path}: {why}" for path, why in found.unreadable.items()]
    if rows.empty:
        unread = f"; {len(left_out)} unreadable. {left_out[0]}" if left_out else ""
        raise UserError(
            f"no results in {', '.join(map(str, roots))}{unread}. Make some with: "
            f"lgbench run --task omniglot --method vanilla,prepended --preset smoke --results {roots[0]}"
        )
    rows[_TEXTS] = rows[_TEXTS].fillna("")
    rows = _with_params_as_json(rows, left_out)
    if cells is not None:
        rows = rows.merge(rows.loc[rows["cell"].isin(cells), BOARD[:-1]].drop_duplicates())
    measured = (rows["status"] == "ok") & np.isfinite(rows["value"].astype(float))
    rows["outcome"] = rows["status"].str.replace("_", " ")
    rows.loc[(rows["status"] == "ok") & ~measured, "outcome"] = "value is not a finite number"
    missing = fill_task_facts(rows[~measured]).sort_values(["task", "label", "seed", "cell"], kind="stable")
    warnings = sorted(set(rows["notice"]) - {""})
    faults = find_faults(rows[measured])
    left_out += describe_faults(rows[measured], faults)
    ok = _one_row_a_measurement(fill_task_facts(rows[measured][faults == ""]), left_out)
    ranks = _metric_ranks(rows)
    ok = _one_rate_a_series(ok, missing, ranks, left_out)
    boards = _boards(ok, missing, ranks, left_out, warnings)
    boards = sorted(boards, key=lambda board: (board.title, board.rank, board.metric))
    warnings = left_out + warnings
    outcomes = _outcomes(missing)
    for row in outcomes.itertuples():
        where = f" at {row.where}" if row.where else ""
        reason = f": {row.reason}" if row.reason else ""
        warnings.append(f"{row.task}, {row.method}, seed {row.seeds}: {row.outcome}{where}{reason}")
    return Results(boards=boards, rows=rows, missing=outcomes, left_out=left_out, warnings=warnings)


def _with_params_as_json(rows: pd.DataFrame, left_out: list[str]) -> pd.DataFrame:
    """Parameters as JSON, which can be grouped and sorted, without the rows whose are none."""
    faults = pd.Series("", index=rows.index, dtype=object)
    for name in ("task_params", "method_params"):
        distinct = {id(found): found for found in rows[name]}
        texts = {key: _as_json(found) for key, found in distinct.items()}
        as_texts = pd.Series([texts[id(found)] for found in rows[name]], rows.index, dtype=object)
        faults[as_texts.isna() & (faults == "")] = f"a value of its {name} is no JSON"
        rows[name] = as_texts
    left_out += describe_faults(rows, faults)
    return rows[faults == ""]


def _as_json(params: Mapping[str, str] | None) -> str | None:
    try:
        return json.dumps(from_texts(params), sort_keys=True)
    except (ValueError, RecursionError):
        return None


def _one_row_a_measurement(rows: pd.DataFrame, left_out: list[str]) -> pd.DataFrame:
    """The newest row of each measurement, and in `doubled` the cells that claim to be the same one."""
    rows = rows.astype(dict.fromkeys(INTEGERS, "int64"))
    rows = rows.sort_values(["created_at", "cell"], kind="stable", key=partial(_known_age, left_out=left_out))
    rows = rows.assign(doubled="", claim=_numbered(rows, [*BOARD, *SERIES, *POINT, "seed"]))
    several = rows[rows.duplicated(["claim", "cell"], keep=False)]
    differ = several.groupby(["label", "cell", "claim"])["value"].nunique().gt(1)
    for label, cell in sorted({(label, cell) for label, cell, _ in differ[differ].index}):
        left_out.append(
            f"{label}, cell {cell}: folders have different values of it; the newest ones are shown"
        )
    rows = rows.drop_duplicates(["claim", "cell"], keep="last")
    rows = _newest_code(rows, left_out)
    clashing = rows.duplicated("claim", keep=False)
    for _, alike in rows[clashing].groupby("claim"):
        cells = ", ".join(sorted(alike["cell"]))
        rows.loc[alike.index, "doubled"] = f"seed {alike['seed'].iloc[0]}, {cells}"
    for (label, doubled), alike in rows[clashing].groupby(["label", "doubled"]):
        left_out.append(
            f"{label}, {doubled}: these cells differ in nothing shown here; the newest one, "
            f"{alike['cell'].iloc[-1]}, is shown, and nothing of it is ranked"
        )
    return rows.drop_duplicates("claim", keep="last").drop(columns="claim")


def _known_age(values: pd.Series, left_out: list[str]) -> pd.Series:
    """A column to sort by, where what a wrong clock dates to the future is the oldest."""
    if values.name != "created_at":
        return values
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    future = values > tomorrow
    for text in sorted(set(values[future])):
        left_out.append(f"rows dated {text}, in the future: a clock was wrong, so they count as the oldest")
    return values.mask(future, "")


def _one_rate_a_series(
    rows: pd.DataFrame, missing: pd.DataFrame, ranks: dict[tuple[str, str], int], left_out: list[str]
) -> pd.DataFrame:
    """Rows of the learning rate that is best at the training length; what was chosen is said."""
    alike = [name for name in [*BOARD, *SERIES] if name not in ("metric", "eval_draw", "learning_rate")]
    headline = [ranks[key] == 0 for key in rows[["task", "metric"]].itertuples(index=False, name=None)]
    stays, sentences = best_rates(rows.assign(is_headline=headline), missing, alike)
    left_out += sentences
    return rows[stays]


def _numbered(rows: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """A number for each combination of values of these columns, in the order of the combinations."""
    return rows.groupby(list(columns), dropna=False, sort=True).ngroup()


def _newest_code(rows: pd.DataFrame, left_out: list[str]) -> pd.DataFrame:
    """Without measurements that an edited plugin made anew: of each, those of the newest code stay."""
    code = _numbered(rows, ["task_identity", "method_identity", "backbone_identity"])
    newest = code.groupby(rows["claim"]).transform("last")
    old = (code != newest) & rows.duplicated("claim", keep=False)
    for label, cells in rows[old].groupby("label")["cell"].unique().items():
        left_out.append(
            f"{label}: a plugin was edited since {', '.join(sorted(cells))}; newer cells are shown"
        )
    return rows[~old]


def _metric_ranks(rows: pd.DataFrame) -> dict[tuple[str, str], int]:
    """(task, metric) → its place among those of the task: a cell stores its headline metric first."""
    first = rows.groupby("cell").cumcount().groupby([rows["task"], rows["metric"]]).min()
    return first.groupby(level="task").rank(method="first").sub(1).astype(int).to_dict()


def _boards(
    rows: pd.DataFrame,
    missing: pd.DataFrame,
    ranks: dict[tuple[str, str], int],
    left_out: list[str],
    warnings: list[str],
) -> Iterable[Board]:
    titles, slugs = _titles(rows[BOARD].drop_duplicates()), set[str]()
    labels = tuple(sorted(rows["label"].unique()))
    known = {field.name for field in fields(Board)}
    for key, group in rows.groupby(BOARD):
        title, names = titles[key], name_series(group)
        group = _with_series(group, names)
        last = group.groupby("series")["step"].transform("max")
        early = group[(group["step"] == last) & (last < group["train_steps"])]
        for series, step in early[["series", "step"]].drop_duplicates().itertuples(index=False):
            warnings.append(f"{title}, {series}: measured after {step:,} steps, before the training ended")
        if group.groupby(["axis", "eval_length", "num_queries"])["items_hash"].nunique().max() > 1:
            left_out.append(
                f"{title}, {key[-1]}: not all runs were evaluated on the same items. Those on other items "
                "than most are not paired, and not ranked"
            )
        alike = missing[(missing[BOARD[:-1]] == list(key[:-1])).all(axis=1)]
        alike = alike[(alike["metric"] == key[-1]) | alike["eval_length"].isna()]
        yield Board(
            **{name: value for name, value in zip(BOARD, key, strict=True) if name in known},
            rank=ranks[key[0], key[-1]],
            higher_is_better=bool(group["higher_is_better"].iloc[0]),
            length_unit=group["length_unit"].iloc[0],
            combine=group["combine"].iloc[0],
            is_binary=are_binary(group),
            labels=labels,
            notice=" ".join(sorted(set(group["notice"]) - {""})).strip(),
            title=title,
            slug=_slug(title, dict(zip(BOARD, key, strict=True)), slugs),
            rows=group,
            missing=_with_series(alike, names).dropna(subset="series"),
        )


def _with_series(rows: pd.DataFrame, names: dict[tuple, str]) -> pd.DataFrame:
    return rows.assign(series=[names.get(key) for key in rows[SERIES].itertuples(index=False, name=None)])


def _titles(keys: pd.DataFrame) -> dict[tuple, str]:
    """Task, data and preset; parameters of the task and the data's hash only where they tell boards apart."""
    titles = {}
    told_apart = ["task", "data_source", "preset", "eval_draw", "metric"]
    for (task, source, preset, draw, _), alike in keys.groupby(told_apart):
        params = [json.loads(text or "{}") for text in alike["task_params"]]
        versions = alike["data_fingerprint"].nunique()
        for row, mine in zip(alike.itertuples(index=False), params, strict=True):
            differing = [f"{n}={mine[n]}" for n in sorted(mine) if any(p.get(n) != mine[n] for p in params)]
            shown = f"{task}[{','.join(differing)}]" if differing else str(task)
            version = f", version {row.data_fingerprint[:8]}" if versions > 1 else ""
            items = f", evaluation draw {draw}" if draw else ""
            titles[tuple(row)] = f"{shown}, data: {source}{version}, preset {preset}{items}"
    return titles


def _slug(title: str, board: Mapping[str, str], taken: set[str]) -> str:
    """A board as part of a file's name: of its data the first words, and their hash where that is taken."""
    shown = title.partition(", data: ")[0]
    source = re.split(r"[(,]", board["data_source"])[0]
    draw = f" draw {board['eval_draw']}" if board["eval_draw"] else ""
    words = f"{shown} {source} {board['preset']}{draw} {board['metric']}"
    slug = for_file_name(words)
    if slug in taken:
        slug = for_file_name(f"{words} {board['data_fingerprint'][:8]}", taken)
    taken.add(slug)
    return slug


def _outcomes(missing: pd.DataFrame) -> pd.DataFrame:
    """One row a method and outcome, in words."""
    found = []
    for key, group in missing.groupby(["task", "preset", "label", "outcome"]):
        reasons = list(dict.fromkeys(reason for reason in group["reason"] if reason))
        found.append(
            dict(zip(["task", "preset", "method", "outcome"], key, strict=True))
            | {
                "seeds": _listed(group["seed"], str),
                "where": _where(group),
                "reason": "; ".join(reasons[:MAX_REASONS]) + "; …" * (len(reasons) > MAX_REASONS),
            }
        )
    return pd.DataFrame(found, columns=["task", "preset", "method", "outcome", "seeds", "where", "reason"])


def _where(rows: pd.DataFrame) -> str:
    """The evaluations that rows are about; empty if about whole runs."""
    unit = rows["length_unit"].iloc[0] or "tokens"
    context = _listed(rows.loc[rows["axis"] != "queries", "eval_length"], partial(format_length, unit=unit))
    queries = _listed(rows.loc[rows["axis"] == "queries", "num_queries"], format_length)
    return ", ".join([f"{context} {unit}"] * bool(context) + [f"{queries} queries"] * bool(queries))


def _listed(values: pd.Series, show: Callable[[int], str]) -> str:
    return ", ".join(show(value) for value in sorted(values.dropna().astype(int).unique()))
