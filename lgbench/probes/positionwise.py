"""How well each position is predicted: the loss of the next token by position, and perplexity of stretches.

    loss(t) = -log p(x_{t+1} | x_{≤ t})      mean over items, stretches of positions half an octave wide

A model that generalises in length keeps it flat beyond the training length. Source: Ruiz and Gu,
arXiv:2507.02782, position-wise perplexity.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lgbench.probe import Probe, Reading, Readings
from lgbench.probes._painting import Painted

PIECE = 2048
"""Tokens that are read at a time, with their logits."""


class Positionwise(Probe):
    """Losses in nats of whole contexts, one pass a length; the needle of a retrieval task is text too."""

    statistics = ("loss beyond L_train - within",)

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """16 times the training length, which holds all shorter ones."""
        return (16 * train_length,)

    def applies(self, task, items, method, backbone) -> str | None:
        """To tasks of text, whose models predict tokens."""
        if items.padded or not (task.generates or task.lm_metric is not None):
            return "it reads the loss of every next token, and the contexts of this task are no text"
        return None

    def recorder(self, layers: Sequence[int]) -> Painted:
        """Losses."""
        return Painted(layers)

    def read(self, subject, recorder: Painted) -> None:
        """Every token but the last one of a context has a next one in it."""
        recorder.train_tokens = subject.task.context_tokens(subject.train_length)
        for length in subject.lengths:
            window, stop = subject.window(length), subject.items.num_tokens(length) - 1
            for chosen in subject.batches(length):
                subject.model.intervention.use(subject.fits.get(length, {}))
                state, parts = None, []
                for start in range(window.first, stop, PIECE):
                    end = min(start + PIECE, stop)
                    tokens = subject.items.context(chosen, start, end + 1, length)["tokens"]
                    read = {"tokens": tokens[:, :-1]}
                    losses, state = subject.model.read_tokens(read, tokens[:, 1:], state, window.announced)
                    parts.append(losses.float().cpu().numpy())
                unread = np.full((len(parts[0]), window.first), np.nan, dtype=np.float32)
                recorder.add("losses", length, values=np.concatenate([unread, *parts], axis=1))

    def result(self, recorder: Painted) -> Readings:
        """Loss and perplexity by stretch, named by its end; beyond against within L_train."""
        rows, arrays, train = [], {}, recorder.train_tokens
        for length in sorted({name[1] for name in recorder.kept}):
            losses = recorder.of("losses", length)
            ends = stretches(losses.shape[1])
            means = [losses[:, start:stop].mean(axis=1) for start, stop in pairwise([0, *ends])]
            for stop, mean in zip(ends, means, strict=True):
                rows.append(Reading("loss", float(mean.mean()), stop, group=f"of {length}"))
                rows.append(Reading("perplexity", float(np.exp(mean.mean())), stop, group=f"of {length}"))
            within = losses[:, train // 2 : train].mean() if train // 2 else np.nan
            beyond = losses[:, train:].mean() if losses.shape[1] > train else np.nan
            rows.append(Reading("loss beyond L_train - within", float(beyond - within), length))
            arrays |= {f"losses {length}": np.stack(means, axis=1), f"ends {length}": np.array(ends)}
        return Readings(rows, arrays)

    def figure(self, several: Sequence[Readings]):
        """Perplexity over the position, a line a model."""
        from matplotlib.lines import Line2D
        from matplotlib.ticker import FuncFormatter

        from lgbench.report import probe_panels as draw
        from lgbench.report.style import length_axis, looks, new_figure

        with looks():
            figure, axes = new_figure()
            ends: set[int] = set()
            for look, one in zip(draw.looks_of(several), several, strict=True):
                length = one.facts["lengths"][-1]
                at, values = one.arrays[f"ends {length}"], np.exp(one.arrays[f"losses {length}"].mean(axis=0))
                axes[0].plot(at, values, **look)
                train = one.facts["train_length"]
                axes[0].axvline(train, color=look["color"], linewidth=0.8, linestyle="--")
                ends |= {*at.tolist()}
            length_axis(
                axes[0], [min(ends), 1 << (max(ends) - 1).bit_length()], "position (tokens, K = 1,024)"
            )
            axes[0].set_yscale("log")
            for axis in (axes[0].yaxis.set_major_formatter, axes[0].yaxis.set_minor_formatter):
                axis(FuncFormatter(lambda value, _: f"{value:g}"))
            axes[0].set_ylabel("perplexity of the next token")
            handles = [
                Line2D([], [], label=draw.name_of(one, several), **look)
                for look, one in zip(draw.looks_of(several), several, strict=True)
            ]
            text = "Dashed: the training length."
            draw.finish(figure, axes, several, [text], handles=handles)
        return figure


def stretches(length: int) -> list[int]:
    """Ends of stretches half an octave wide, from 16 on, and the length itself."""
    ends = [round(2 ** (k / 2)) for k in range(8, 2 * length.bit_length() + 2)]
    return [*(end for end in ends if end < length), length]
