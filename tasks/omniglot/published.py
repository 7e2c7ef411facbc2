"""Figures of the image reconstruction paper."""

from lgbench.published import Figure

_PAPER = "Rathjens et al., image reconstruction"
_RUN = "lgbench run --task omniglot --preset paper --seeds 3"
_SEEN = (
    "The values of the sweep are not in the paper's text; these are ours, around the defaults of its code."
)

PUBLISHED = (
    Figure(
        paper=_PAPER, shows="Fig. 2 left: Mamba by training length",
        command=f"{_RUN} --train-length 256,512,1024,2048,4096,8192,16384", deviations=(_SEEN,),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 2 left: Mamba by depth", command=f"{_RUN} --num-layers 2,4,8,16",
        deviations=(_SEEN,),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 2 left: Mamba by size of the state", command=f"{_RUN} --d-state 2,8,32",
        deviations=(_SEEN,),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 2 right: transformer by training length",
        command=f"{_RUN} --method transformer --train-length 32,64,128,256", deviations=(_SEEN,),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 2 right: transformer by depth",
        command=f"{_RUN} --method transformer --num-layers 2,4,8,16", deviations=(_SEEN,),
    ),
    Figure(
        paper=_PAPER, shows="Fig. 6 left: variants of training",
        command=f"{_RUN} --method vanilla,truncated,expanded,prepended",
        deviations=(
            "The largest length of `expanded` is not in the paper's text; 4,096 is ours.",
            "The weights after the last step are evaluated; the authors keep those of lowest validation "
            "error at 1,024 image tokens.",
        ),
    ),
)  # fmt: skip
