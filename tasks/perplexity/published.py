"""Figures of perplexity."""

from lgbench.published import Figure

_DECIMAMBA = "Ben-Kish et al., DeciMamba, arXiv:2406.14528"
_SMALL, _MIDDLE, _LARGE = (f"state-spaces/mamba-{size}-hf" for size in ("130m", "1.4b", "2.8b"))
_BOOKS = '--task "perplexity[protocol=as_released]" --data path/to/pg19'
_PROOFS = "--task perplexity --data path/to/proof-pile"
_DRAWN = "Training windows are drawn from all books alike, each window as likely; published: one a book."
_FORKED = "Calibration items come from the training split of the same corpus; released: from the test split."
_LABELS = "The loss that calibrates is that of the last hundred labels; released: of all positions."
_LENGTHS = "--eval-lengths 2048,4096,8192,16384,32768,65536"
_ZERO = "--train-steps 0 --train-length 1899"
_LOOKS = "It looks into trained cells; `lgbench run --task perplexity` makes them first."
_STATES = "Ruiz and Gu, arXiv:2507.02782"

PUBLISHED = (
    Figure(
        paper=_DECIMAMBA, shows="PG-19, fine-tuned 130M",
        command=f"lgbench run --preset paper --pretrained {_SMALL} {_BOOKS} --method "
        '"vanilla,decimamba[protocol=as_released,train_with=true,layers=[[12,13,14,15,16,17,18,19,20]],'
        'beta=0.83,train_l_base=2000,l_base=8000]"',
        deviations=(
            _DRAWN, "The weights after the last step are evaluated; the release chooses by the test books.",
        ),
    ),
    Figure(
        paper=_DECIMAMBA, shows="PG-19, lower bound: trained at the length of the evaluation",
        command=f"lgbench run --preset paper --pretrained {_SMALL} {_BOOKS} "
        "--train-length 899,1899,3899,9899,19899,29899",
        deviations=(_DRAWN, "Each model is evaluated at all lengths; its own is the bound."),
    ),
    Figure(
        paper=_DECIMAMBA, shows="Fig. 4: mean distance by training length",
        command="lgbench probe mean_distance --task perplexity --train-length 512,1024,2048 --items 100 "
        "--length 512,1024,2048,4096,8192,16384",
        deviations=(
            "It looks into trained cells; `lgbench run --task perplexity --data wikitext --train-length "
            "512,1024,2048` makes them first, of another size than the 80 million parameters of the paper.",
        ),
    ),
    Figure(
        paper=_DECIMAMBA, shows="PG-19 zero-shot, 1.4B",
        command=f"lgbench run --preset paper --pretrained {_MIDDLE} {_ZERO} {_BOOKS} --method "
        '"vanilla,decimamba[protocol=as_released,layers=12,l_base=4000,beta=1]"',
    ),
    Figure(
        paper=_DECIMAMBA, shows="PG-19 zero-shot, 2.8B",
        command=f"lgbench run --preset paper --pretrained {_LARGE} {_ZERO} {_BOOKS} --method "
        '"vanilla,decimamba[protocol=as_released,layers=22,l_base=4000,beta=1]"',
    ),
    Figure(
        paper=_DECIMAMBA, shows="Ablation: scores of tokens, 1.4B",
        command=f"lgbench run --preset paper --pretrained {_MIDDLE} {_ZERO} {_BOOKS} --method "
        '"decimamba[layers=12,l_base=8000,beta=1,score=[l2,max_norm,random]]"',
        deviations=("No code of the ablation was released; `max_norm` is that of the scan's input.",),
    ),
    Figure(
        paper="Azizi et al., MambaExtend, ICLR 2025", shows="Proof-Pile by length, 130M",
        command=f"lgbench run --preset paper --pretrained {_SMALL} --train-steps 0 {_PROOFS} {_LENGTHS} "
        '--method "vanilla,mambaextend[protocol=as_released]"',
        deviations=(
            _FORKED, _LABELS,
            "All lengths have the same documents; published: for each those that are long enough.",
            "No end of text stands before a document.",
            "The published number is the metric `perplexity of all tokens`.",
        ),
    ),
    Figure(
        paper="MambaModulation, arXiv:2509.19633", shows="Eigenvalues of the transition",
        command="lgbench probe spectrum --task perplexity",
        deviations=(_LOOKS, "Eigenvalues in effect, with the time steps of texts, stand beside exp(A)."),
    ),
    Figure(
        paper="MambaModulation, arXiv:2509.19633", shows="Norm of the state by length",
        command="lgbench probe state_norm --task perplexity --length 1024,2048,4096,8192,16384,32768,65536",
        deviations=(_LOOKS, "Each length is read by itself, and the state of the convolution is left out."),
    ),
    Figure(
        paper=_STATES, shows="Perplexity by position, Mamba-2",
        command="lgbench probe positionwise --task perplexity --backbone mamba2 --length 32768",
        deviations=(_LOOKS,),
    ),
    Figure(
        paper=_STATES, shows="Standard deviation of the state, Mamba-2",
        command="lgbench probe state_norm --task perplexity --backbone mamba2 "
        "--length 1024,2048,4096,8192,16384,32768",
        deviations=(_LOOKS,),
    ),
    Figure(
        paper=_STATES, shows="Effective remembrance",
        command="lgbench probe effective_remembrance --task perplexity --backbone mamba2 --length 8192",
        deviations=(_LOOKS,),
    ),
    Figure(
        paper="MambaModulation, arXiv:2509.19633", shows="Perplexity by length, 130M",
        command=f"lgbench run --preset paper --pretrained {_SMALL} --train-steps 0 {_PROOFS} "
        f'{_LENGTHS},131072 --method "vanilla,mambamodulation[protocol=as_released]"',
        deviations=(_FORKED, _LABELS, "The tables of the paper were not at hand."),
    ),
    Figure(
        paper="Ye et al., LongMamba, arXiv:2504.16053", shows="Perplexity by length, 130M",
        command=f"lgbench run --preset paper --pretrained {_SMALL} {_ZERO} {_BOOKS} "
        '--method "vanilla,longmamba[protocol=as_released]"',
        deviations=(
            "Segments of the statistics are random windows of training books; released: equally spaced in "
            "one text of the Pile.",
            "Share of clamped steps and mean or maximum over segments are our defaults, as published ones "
            "are not known; nor were the tables of the paper at hand.",
        ),
    ),
)  # fmt: skip
