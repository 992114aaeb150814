"""β at each step, against the values that one can work out by hand."""

from collections.abc import Callable

import pytest

from vae_lightning.errors import UserError
from vae_lightning.models.annealing import Annealing, Constant, Cyclical, Linear

# A new schedule costs one line here.
SCHEDULES: dict[str, Annealing] = {
    "constant": Constant(2.0),
    "linear": Linear(0.0, 4.0, epochs=3),
    "falling": Linear(4.0, 0.5, steps=20),
    "cyclical": Cyclical(0.1, 2.0, steps=40, cycles=4),
    "cyclical by epochs": Cyclical(epochs=4.0, cycles=2, ratio=1.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_ends_at_its_final_value_and_stays_there(name: str) -> None:
    schedule = SCHEDULES[name]
    assert all(schedule(step, 10) == pytest.approx(schedule.final) for step in (40, 41, 1000, 10**9))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_a_function_of_the_step(name: str) -> None:
    """In whatever order it is asked, for a resumed run asks from the middle on."""
    schedule = SCHEDULES[name]
    forwards = [schedule(step, 10) for step in range(60)]
    assert [schedule(step, 10) for step in reversed(range(60))] == forwards[::-1]
    assert all(beta >= 0 for beta in forwards)


def test_constant() -> None:
    assert [Constant(0.25)(step, 7) for step in (0, 5, 100)] == [0.25] * 3


def test_linear_over_steps() -> None:
    schedule = Linear(1.0, 3.0, steps=4)
    assert [schedule(step, 99) for step in range(6)] == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0, 3.0])


@pytest.mark.parametrize("epochs", [30, 0.5])
def test_linear_over_epochs(epochs: float) -> None:
    """0 → 1 over 30 epochs: the first step of epoch e has β = e / 30."""
    schedule, steps_per_epoch = Linear(epochs=epochs), 62
    for epoch in range(40):
        assert schedule(epoch * steps_per_epoch, steps_per_epoch) == pytest.approx(min(1.0, epoch / epochs))


def test_cyclical_rises_and_waits_in_each_cycle() -> None:
    schedule = Cyclical(steps=16, cycles=2, ratio=0.5)
    cycle = [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert [schedule(step, 99) for step in range(18)] == pytest.approx([*cycle, *cycle, 1, 1])


@pytest.mark.parametrize("cycles", [2, 3, 5, 7])
@pytest.mark.parametrize("epochs", [1, 3, 10])
def test_every_cycle_starts_at_start(cycles: int, epochs: int) -> None:
    """Whatever the rounding where a cycle ends."""
    steps_per_epoch = 7 * cycles
    schedule = Cyclical(0.5, 2.0, epochs=epochs, cycles=cycles)
    length = epochs * steps_per_epoch // cycles
    for cycle in range(cycles):
        assert schedule(cycle * length, steps_per_epoch) == pytest.approx(0.5)
        assert schedule(cycle * length + length - 1, steps_per_epoch) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constant(-1.0), "Constant: beta = -1.0"),
        (lambda: Constant(float("nan")), "Constant: beta = nan"),
        (lambda: Constant(float("inf")), "Constant: beta = inf"),
        (lambda: Linear(), "Linear: give either epochs or steps"),
        (lambda: Linear(epochs=1, steps=1), "Linear: give either epochs or steps"),
        (lambda: Linear(epochs=0), "Linear: epochs = 0"),
        (lambda: Linear(epochs=float("nan")), "Linear: epochs = nan"),
        (lambda: Linear(steps=-3), "Linear: .*steps = -3"),
        (lambda: Linear(start=-1, steps=3), "Linear: start = -1"),
        (lambda: Linear(stop=float("inf"), steps=3), "Linear: stop = inf"),
        (lambda: Cyclical(), "Cyclical: give either epochs or steps"),
        (lambda: Cyclical(steps=4, cycles=0), "Cyclical: cycles = 0"),
        (lambda: Cyclical(steps=4, ratio=0.0), "Cyclical: ratio = 0.0"),
        (lambda: Cyclical(steps=4, ratio=1.5), "Cyclical: ratio = 1.5"),
    ],
)
def test_a_wrong_argument_is_named(build: Callable[[], Annealing], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()
