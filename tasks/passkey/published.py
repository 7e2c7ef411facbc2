"""Figures of passkey retrieval."""

from lgbench.published import Figure

_RUN = (
    "lgbench run --preset paper --pretrained state-spaces/mamba-130m-hf "
    '--task "passkey[protocol=as_released]" --data wikitext'
)
_DECIMAMBA = "Ben-Kish et al., DeciMamba, arXiv:2406.14528"
_DRAWN = "Training texts begin at a random sentence; the release reads its text on from sample to sample."
_EXTEND = "--train-length 4096 --train-steps 0 --eval-lengths 1000,2000,4000,8000,16000,32000,64000"
_TRAINED = "It looks into the trained cells of the table above, of which it reads the first seed."

PUBLISHED = (
    Figure(
        paper=_DECIMAMBA, shows="Passkey by length and depth, 130M",
        command=f'{_RUN} --method "vanilla,decimamba[protocol=as_released,train_with=true]"',
        deviations=(
            _DRAWN, "Layer 12 alone decimates, as in the released configuration; the paper says 13 to 21.",
            "The weights after the last step are evaluated; the release chooses among checkpoints by the "
            "evaluation itself.",
        ),
    ),
    Figure(
        paper=_DECIMAMBA, shows="Ablation: half of the tokens in each layer",
        command=f'{_RUN} --method "decimamba[layers=[[12,13,14,15,16,17,18,19,20]],count=top_k_percent,'
        'percent=50,train_with=true]"',
        deviations=(_DRAWN, "No code of the ablation was released; the prompt's end is protected."),
    ),
    Figure(
        paper=_DECIMAMBA, shows="Hidden attention of the last position",
        command="lgbench probe hidden_attention --task passkey --length 2000,4000,8000,16000",
        deviations=(_TRAINED, "All channels are averaged by their absolute values; published: some, signed."),
    ),
    Figure(
        paper=_DECIMAMBA, shows="Sums of time steps by layer and length",
        command="lgbench probe sum_delta --task passkey --length 2000,4000,8000,16000,32000",
        deviations=(_TRAINED, "The sum is shown over the length, so that a linear one is flat."),
    ),
    Figure(
        paper=_DECIMAMBA, shows="Maps of time steps with the passkey marked",
        command="lgbench probe delta_map --task passkey --layers 16 --length 2000,8000,16000",
        deviations=(_TRAINED, "Rank and recall of the passkey are ours."),
    ),
    Figure(
        paper="Azizi et al., MambaExtend, ICLR 2025", shows="Passkey: the fine-tuned baseline",
        command=f"{_RUN} --train-length 4096 --eval-lengths 1000,2000,4000,8000,16000,32000,64000",
        deviations=(_DRAWN,),
    ),
    Figure(
        paper="Azizi et al., MambaExtend, ICLR 2025", shows="Passkey: scales of time steps",
        command=f'{_RUN} {_EXTEND} --method "mambaextend[protocol=as_released,calibrator=backprop]"',
        deviations=(_DRAWN, "Scales are float32; the release has bfloat16."),
    ),
    Figure(
        paper="MambaModulation, arXiv:2509.19633", shows="Passkey: scales of A",
        command=f'{_RUN} {_EXTEND} --method "mambamodulation[protocol=as_released,calibrator=backprop,'
        'learning_rate=[0.0001,0.001,0.01,0.1]]"',
        deviations=(
            _DRAWN,
            "Scales are float32; in the release, bfloat16, the two small rates cannot move them.",
            "The tables of the paper were not at hand.",
        ),
    ),
)  # fmt: skip
