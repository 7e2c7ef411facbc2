"""Equal seeds give the weights and losses that they always gave, on which published checkpoints stand."""

import hashlib

import pytest
import torch

from lgbench.plan.cells import load_method
from lgbench.run.train import Trainer

CASES = [
    ("vanilla", "mamba", "a1dc6aa6c5191644", (1.1760854721069336, 0.9555177092552185, 1.1661385297775269)),
    ("vanilla", "mamba2", "2328f5e6ec33ec2e", (1.3210591077804565, 1.7684435844421387, 1.7672970294952393)),
    (
        "decoder_transformer",
        "decoder",
        "fbd79833a57c54bd",
        (1.1730477809906006, 0.9587165117263794, 1.1486711502075195),
    ),
    (
        "transformer",
        "encoder_decoder",
        "46041cee977c3984",
        (1.1999274492263794, 0.7035310864448547, 1.00165593624115),
    ),
]


def trainer(toy_task, toy_cells, folder, method, backbone):
    (cell,) = toy_cells(method, backbone=[backbone], train_steps=[3])
    own = load_method(cell.training.method, cell.training.method_params)
    return Trainer(cell.training, toy_task, own, folder)


def weights_digest(module):
    state = module.state_dict()
    parts = [name.encode() + state[name].contiguous().numpy().tobytes() for name in sorted(state)]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


@pytest.mark.parametrize(("method", "backbone", "digest", "losses"), CASES, ids=[c[1] for c in CASES])
def test_a_seed_gives_the_weights_and_losses_that_it_always_gave(
    toy_task, toy_cells, tmp_path, method, backbone, digest, losses
):
    made = trainer(toy_task, toy_cells, tmp_path, method, backbone)
    assert weights_digest(made.model) == digest
    for _ in losses:
        made.one_step()
    torch.testing.assert_close(made.log[: len(losses)], torch.tensor(losses), rtol=2e-6, atol=0)
