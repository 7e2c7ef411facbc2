"""Figures of the image reconstruction paper."""

from lgbench.published import Figure

_PAPER = "Rathjens et al., image reconstruction"
_RUN = "lgbench run --task omniglot --preset paper --seeds 3"
_SEEN = (
    "The values of the sweep are not in the paper's text; these are ours, around the defaults of its code."
)
_BEST = (
    "The last weights are evaluated; the authors keep those of lowest validation error at 1,024 image tokens."
)
_LOOK = "lgbench probe {} --task omniglot"
_TRAINED = "It looks into trained cells; `lgbench run --task omniglot --preset paper{}` makes them first."

PUBLISHED = (
    Figure(
        paper=_PAPER, shows="Fig. 2 left: Mamba by training length",
        command=f"{_RUN} --train-length 256,512,1024,2048,4096,8192,16384", deviations=(_SEEN, _BEST),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 2 left: Mamba by depth", command=f"{_RUN} --num-layers 2,4,8,16",
        deviations=(_SEEN, _BEST),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 2 left: Mamba by size of the state", command=f"{_RUN} --d-state 2,8,32",
        deviations=(_SEEN, _BEST),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 2 left: Mamba by queries in training",
        command=f"{_RUN} --train-queries 64-64,256-256,1024-1024,4096-4096", deviations=(_SEEN, _BEST),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 2 right: transformer by training length",
        command=f"{_RUN} --method transformer --train-length 32,64,128,256", deviations=(_SEEN, _BEST),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 2 right: transformer by depth",
        command=f"{_RUN} --method transformer --num-layers 2,4,8,16", deviations=(_SEEN, _BEST),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 2 right: transformer by queries in training",
        command=f"{_RUN} --method transformer --train-queries 1-25,1-50,1-100,1-200",
        deviations=(_SEEN, _BEST),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 6 left: variants of training",
        command=f"{_RUN} --method vanilla,truncated,expanded,prepended",
        deviations=(
            "The largest length of `expanded` is not in the paper's text; 4,096 is ours.",
            _BEST,
        ),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 3: paintings from the same tokens",
        command=f"{_LOOK.format('identical_tokens')} --train-length 256,1024,4096 "
        "--length 32,64,128,256,512,1024,2048,4096,8192,16384,32768",
        deviations=(
            _TRAINED.format(" --train-length 256,1024,4096"), _SEEN, "Contrast and correlation are ours.",
        ),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 4: quadrant by quadrant, in two orders",
        command=f"{_LOOK.format('quadrants')} --train-length 1024,4096 --length 1024,4096",
        deviations=(
            _TRAINED.format(" --train-length 1024,4096"), _SEEN,
            "Size and place of the character, tokens a quadrant and the measures are ours.",
        ),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 5 left: an image is switched",
        command=f"{_LOOK.format('image_switch')} --train-length 4096,16384 --length 16384 --items 200",
        deviations=(_TRAINED.format(" --train-length 4096,16384"), _SEEN, "The measure is ours."),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 5 right: patches that were seen",
        command=f"{_LOOK.format('seen_patches')} --method vanilla --method prepended "
        "--train-length 256,1024,4096 --length 16,32,64,128,256,512,1024,2048,4096,8192,16384",
        deviations=(
            _TRAINED.format(" --method vanilla,prepended --train-length 256,1024,4096"), _SEEN,
            "The paper's words allow three readings; all three are given.",
        ),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 6 right: norms of time steps",
        command=f"{_LOOK.format('delta_norm')} --method vanilla --method prepended --train-length 1024 "
        "--length 128,256,512,1024",
        deviations=(_TRAINED.format(" --method vanilla,prepended"), "All lengths have the same tokens."),
    ),
)  # fmt: skip
