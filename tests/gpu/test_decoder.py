"""The decoder on a real GPU: kernels without a bias and with one give what float64 on the CPU gives."""

import pytest
import torch

from lgbench.backbones.decoder import Decoder
from lgbench.intervention import ScanIntervention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

VANILLA = ScanIntervention()
CUTS = {"whole": (), "pieces": (300, 301, 302, 640)}


def make(position, d_model=48, num_heads=4):
    """Heads 12 wide, which the kernels want padded."""
    torch.manual_seed(0)
    model = Decoder(d_model=d_model, num_layers=2, num_heads=num_heads, position=position)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def read(model, inputs, mask, cuts):
    state, hidden, start = None, [], 0
    with torch.no_grad():
        for stop in (*cuts, inputs.shape[1]):
            part = model.advance(
                inputs[:, start:stop],
                mode="prefill",
                state=state,
                mask=None if mask is None else mask[:, start:stop],
                intervention=VANILLA,
            )
            hidden.append(part.hidden)
            state, start = part.state, stop
    return torch.cat(hidden, dim=1)


@pytest.mark.parametrize("position", ["rope", "alibi", "nope", "sinusoidal"])
@pytest.mark.parametrize("masked", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_pieces_on_a_gpu_give_what_the_whole_gives_in_float64(position, masked, cuts, autocast):
    inputs = torch.randn(3, 900, 48, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(900) >= torch.tensor([[0], [17], [350]]) if masked else None
    wanted = read(make(position).double(), inputs.double(), mask, ())
    model = make(position).cuda()
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        got = read(model, inputs.cuda(), mask if mask is None else mask.cuda(), cuts).cpu().double()
    if masked:
        got, wanted = got[mask], wanted[mask]
    error = (got - wanted).norm() / wanted.norm()
    assert error < (2e-2 if autocast else 1e-3), error


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_a_masked_training_step_can_be_captured(position):
    model = make(position).cuda().train()
    inputs, first = torch.randn(2, 256, 48, device="cuda"), torch.zeros((), dtype=torch.long, device="cuda")

    def step():
        mask = torch.arange(200, device="cuda") >= first
        out = model.answer(
            inputs[:, :200], inputs[:, 200:], mode="train", context_mask=mask, intervention=VANILLA
        )
        loss = out.square().mean()
        return loss, torch.autograd.grad(loss, list(model.parameters()))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        loss, grads = step()
    for padding in (0, 60):
        first.fill_(padding)
        graph.replay()
        wanted, wanted_grads = step()
        torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-4)
        for got, grad in zip(grads, wanted_grads, strict=True):
            torch.testing.assert_close(got, grad, atol=1e-4, rtol=1e-3)
