"""Passed states reach the next batch without their history, survive interruptions and end with training."""

import pytest
import torch

from lgbench.errors import UserError
from lgbench.intervention import active_hooks
from lgbench.ops.scan.selective_scan import selective_scan
from lgbench.plan.cells import load_method
from lgbench.run import checkpoint, train
from lgbench.run.train import Trainer, train_all

SOURCES = ("state", "noise", "fitted_noise", "tbptt")


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    monkeypatch.setattr(train, "LOG_EVERY", 4)


@pytest.fixture
def make(toy_cells, toy_task, tmp_path):
    """`make("state_passing[source=noise]", folder="a", train_steps=[12])` → a trainer."""

    def build(method, folder="a", **numbers):
        (cell,) = toy_cells(method, **numbers)
        training = cell.training
        plugin = load_method(training.method, training.method_params)
        return Trainer(training, toy_task, plugin, tmp_path / folder)

    return build


def trained(trainer):
    assert train_all([trainer]) == {}
    return checkpoint.load(checkpoint.weights_path(trainer.folder, trainer.recipe.train_steps))[0]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("source", ["state", "noise", "fitted_noise"])
def test_always_reset_is_vanilla_bit_for_bit(make, source):
    noisy = "noise" in source
    reset, vanilla = make(f"state_passing[source={source},reset=1]"), make("vanilla", "b")
    if noisy:  # numbers drawn for noise that is not used must not shift the items
        reset.model.intervention.generator = torch.Generator().manual_seed(7)
    assert same(trained(reset), trained(vanilla))


@pytest.mark.parametrize("source", SOURCES)
def test_passing_changes_what_is_learned_and_only_in_the_last_steps(make, source):
    vanilla = trained(make("vanilla", "v"))
    assert not same(trained(make(f"state_passing[source={source}]", "a")), vanilla)
    late = make(f"state_passing[source={source},last_steps=3]", "b")
    begun = []
    begin_step = late.model.intervention.begin_step

    def listen(*args):
        begin_step(*args)
        begun.append((late.model.intervention.begun, late.model.intervention.share.item()))

    late.model.intervention.begin_step = listen
    trained(late)
    assert begun == [(False, 0.0)] * 9 + [(True, 1.0)] * 3


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("reset", [0.0, 0.5])
def test_an_interrupted_training_resumes_to_the_same_numbers(make, source, reset):
    method = f"state_passing[source={source},reset={reset}]"
    wanted = trained(make(method, "whole"))
    first = make(method, "parts")
    with pytest.raises(KeyboardInterrupt):
        train_all([first], should_stop=lambda: first.step >= 5)
    second = make(method, "parts")
    assert second.resume() and second.step == 5
    assert same(trained(second), wanted)


def test_a_batch_starts_where_the_last_one_ended_and_is_not_differentiated_through(make):
    trainer = make("state_passing")
    starts, ends = [], []
    intervention = trainer.model.intervention
    first, last = intervention.initial_state, intervention.final_state

    def initial(layer):
        starts.append(first(layer).clone())
        assert not starts[-1].requires_grad
        return starts[-1]

    def final(layer, state):
        assert state.requires_grad
        ends.append(state.detach().clone())
        last(layer, state)

    intervention.initial_state, intervention.final_state = initial, final
    for _ in range(3):
        trainer.one_step()
    assert (starts[0] == 0).all() and (starts[1] == 0).all()
    for k in range(4):  # two layers, two steps with a predecessor
        assert torch.equal(starts[2 + k], ends[k]) and (starts[2 + k] != 0).any()


def test_noise_has_its_sigma_and_fitted_noise_the_statistics_of_final_states(make):
    noise = make("state_passing[source=noise,sigma=3]", batch_size=64)
    noise.model.intervention.begin_step(0, 0, 12)
    drawn = noise.model.intervention.initial_state(0)
    assert drawn.shape == (64, 32, 4) and drawn.std().item() == pytest.approx(3, rel=0.03)
    fitted = make("state_passing[source=fitted_noise,decay=0]", batch_size=64).model.intervention
    fitted.begin_step(0, 0, 12)
    mean, spread = torch.linspace(-2, 2, 32)[:, None].expand(32, 4), 0.5
    fitted.final_state(1, mean + spread * torch.randn(64, 32, 4, generator=torch.Generator().manual_seed(0)))
    drawn = torch.cat([fitted.initial_state(1) for _ in range(20)])
    assert (drawn.mean(dim=0) - mean).abs().max() < 0.35
    assert drawn.std(dim=0).mean().item() == pytest.approx(spread, rel=0.05)
    assert (fitted.initial_state(0) == 0).all(), "nothing was seen of the first layer"


def test_statistics_are_a_moving_average_over_steps(make):
    fitted = make("state_passing[source=fitted_noise,decay=0.75]").model.intervention
    for value in (1.0, 2.0):
        fitted.final_state(0, torch.full((4, 32, 4), value))
    assert fitted.mean[0].unique().item() == pytest.approx(0.75 * 0.25 * 1 + 0.25 * 2)
    assert fitted.square[0].unique().item() == pytest.approx(0.75 * 0.25 * 1 + 0.25 * 4)


def test_the_share_of_resets_is_that_asked_for_and_depends_on_seed_and_step_alone(make):
    intervention = make("state_passing[reset=0.25]").model.intervention

    def schedule(seed):
        found = []
        for step in range(2000):
            intervention.begin_step(seed, step, 2000)
            found.append(intervention.passing)
        return found

    assert 1 - sum(schedule(0)) / 2000 == pytest.approx(0.25, abs=0.03)
    assert schedule(0) == schedule(0) != schedule(1)


def test_two_halves_have_the_gradient_of_a_stopped_state_and_not_that_of_the_whole(make):
    trainer = make("state_passing[source=tbptt]")
    model, task = trainer.model, trainer.task
    trainer.model.intervention.begin_step(0, 0, 12)
    rng = torch.Generator().manual_seed(0)
    batch = task.sample(4, 11, 4, rng)
    with torch.no_grad():
        for parameter in model.backbone.parameters():  # so that states matter
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=rng))

    def gradients(predictions):
        model.zero_grad()
        task.loss(predictions, batch.targets).mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    nothing = dict(context_mask=None, query_mask=None, read_tokens=False)
    halves = trainer.method.training_answer(model, batch, length=11, **nothing).predictions
    whole = model.answer(batch, mode="train", length=11)
    torch.testing.assert_close(halves, whole, rtol=1e-5, atol=1e-6)
    state = model.read_context({"copies": batch.context["copies"][:, :5]}, None, 11)
    state = [type(layer)(layer.scan.detach(), layer.conv) for layer in state]
    state = model.read_context({"copies": batch.context["copies"][:, 5:]}, state, 11)
    stopped = gradients(model.answer_from(state, batch.queries, 4, 11))
    torch.testing.assert_close(gradients(halves), stopped, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(stopped, gradients(whole), rtol=1e-2, atol=1e-4)


def test_a_reset_makes_the_second_half_start_from_nothing(make):
    trainer = make("state_passing[source=tbptt,reset=1]")
    trainer.model.intervention.begin_step(0, 0, 12)
    batch = trainer.task.sample(4, 11, 4, torch.Generator().manual_seed(0))
    nothing = dict(context_mask=None, query_mask=None, read_tokens=False)
    before = trainer.method.training_answer(trainer.model, batch, length=11, **nothing).predictions
    batch.context["copies"][:, :5] += 1
    assert torch.equal(
        trainer.method.training_answer(trainer.model, batch, length=11, **nothing).predictions, before
    )


@pytest.mark.parametrize("source", SOURCES)
def test_evaluation_starts_from_the_zero_state_as_in_vanilla(bench, source):
    vanilla, passed = bench("vanilla"), bench(f"state_passing[source={source}]")
    intervention = passed.model.intervention
    intervention.begin_training(passed.model.backbone, 6, torch.Generator().manual_seed(0))
    intervention.begin_step(0, 0, 1)
    if source == "state":
        intervention.states.fill_(5.0)
    for length in (5, 48):
        assert torch.equal(passed.answer(length), vanilla.answer(length))
        assert active_hooks(intervention, "prefill") == frozenset()
    assert passed.method.prefix_exact and not passed.method.needs_length


def test_masked_surplus_on_the_left_leaves_a_passed_state_untouched(make):
    """What one captured graph for several lengths relies on."""
    trainer = make("state_passing")
    model = trainer.model.eval()
    intervention = model.intervention
    batch = trainer.task.sample(4, 11, 4, torch.Generator().manual_seed(0))
    short = type(batch)({"copies": batch.context["copies"][:, 4:]}, batch.queries, batch.targets)
    answers, states = [], []
    for one, mask in ((short, None), (batch, torch.arange(11) >= 4)):
        intervention.states.copy_(
            torch.randn(intervention.states.shape, generator=torch.Generator().manual_seed(1))
        )
        intervention.begin_step(0, 0, 12)
        with torch.no_grad():
            answers.append(model.answer(one, mode="train", length=7, context_mask=mask))
        states.append(intervention.states.clone())
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(states[0], states[1], rtol=1e-5, atol=1e-6)


def test_a_first_state_adds_what_is_left_of_it_to_every_output():
    """y(h0) = y(0) + C exp(A ΣΔ) h0, the linear superposition, against the scan with a first state."""
    rng = torch.Generator().manual_seed(0)
    x, delta = (torch.rand(2, 9, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    B, C = (torch.randn(2, 9, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    A = -torch.exp(torch.randn(8, 4, generator=rng, dtype=torch.float64))
    h0 = torch.randn(2, 8, 4, generator=rng, dtype=torch.float64)
    zero, passed = selective_scan(x, delta, A, B, C), selective_scan(x, delta, A, B, C, h0=h0)
    left = torch.exp(delta.cumsum(dim=1).unsqueeze(-1) * A) * h0.unsqueeze(1)
    torch.testing.assert_close(passed.y, zero.y + (left * C.unsqueeze(2)).sum(dim=-1))
    torch.testing.assert_close(passed.state, zero.state + left[:, -1])


@pytest.mark.parametrize(
    "text, message",
    [
        ("state_passing[reset=1.5]", "reset must be 0 to 1"),
        ("state_passing[sigma=2]", "sigma has no effect with source=state"),
        ("state_passing[source=noise,sigma=0]", "sigma must be above 0"),
        ("state_passing[last_steps=0]", "last_steps must be at least 1"),
    ],
)
def test_bad_parameters_give_one_clear_line(toy_cells, text, message):
    with pytest.raises(UserError, match=message) as error:
        toy_cells(text)
    assert "\n" not in str(error.value)
