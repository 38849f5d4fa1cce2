"""The choice of a number of tokens from measurements: exact numbers, worked out by hand."""

from __future__ import annotations

import pytest

from plaudit.train.token_choice import Bounds, DoesNotFit, Line, Measurement, choose, rounded

MIB = 2**20


class Machine:
    """Takes `base` and `each` bytes per token, and a time per size; remembers what was tried."""

    def __init__(self, base, each, *, rate=lambda tokens: 1000.0 + tokens, breaks_at=None):
        self.base, self.each, self.rate, self.breaks_at, self.tried = base, each, rate, breaks_at, []

    def __call__(self, tokens):
        self.tried.append(tokens)
        if self.breaks_at is not None and tokens >= self.breaks_at:
            return Measurement(tokens, None)
        return Measurement(tokens, self.base + self.each * tokens, tokens / self.rate(tokens))


def bounds(free, *, share=100_000, longest=300, careful=True, fixed=0):
    return Bounds(free, fixed, share, longest, careful)


def test_line():
    line = Line.through([Measurement(100, 1100), Measurement(200, 2100), Measurement(400, 4100)])
    assert (line.base, line.slope) == (pytest.approx(100), pytest.approx(10))
    assert line.at(1000) == 10_100
    assert line.capacity(5100, 10_000) == 500
    assert line.capacity(5100, 300) == 300
    assert line.capacity(50, 300) == 0
    # One point: everything but what is known to be fixed grows with the tokens.
    assert Line.through([Measurement(100, 1100)], fixed=100).at(200) == 2100
    # The line lies on the highest point, not in the middle.
    bent = Line.through([Measurement(1, 10), Measurement(2, 14), Measurement(3, 12)])
    assert bent.slope == pytest.approx(1)
    assert bent.at(2) == 14


@pytest.mark.parametrize(("tokens", "said"), [(63, 63), (64, 64), (130, 128), (4095, 4032), (6300, 6144), (6144, 6144)])
def test_rounded(tokens, said):
    assert rounded(tokens) == said


# -- where trying is dangerous


def test_a_careful_choice_doubles_and_stops_at_the_margin():
    # 60 % of 1000 MiB; 100 MiB and 0.1 MiB per token: 5000 tokens fit, which is 4864 in multiples of 256.
    machine = Machine(100 * MIB, MIB // 10)
    found = choose(machine, bounds(1000 * MIB))
    assert machine.tried == [256, 300, 600, 1200, 2400, 4800, 4864]
    assert (found.tokens, found.reason) == (4864, "memory")
    assert found.bytes == 100 * MIB + 4864 * (MIB // 10)
    assert found.bytes <= 600 * MIB
    assert found.bytes_per_token == pytest.approx(MIB // 10)


def test_a_careful_choice_never_tries_what_the_sizes_before_do_not_allow():
    machine = Machine(100 * MIB, MIB // 10)
    choose(machine, bounds(1000 * MIB))
    for before, size in zip(machine.tried, machine.tried[1:], strict=False):
        assert size <= 2 * before
        assert machine.base + machine.each * size <= 600 * MIB


def test_what_hides_at_small_sizes_is_not_believed():
    # Nothing is seen up to 1200 tokens; a line through everything would expect too little at 4800.
    class Hidden(Machine):
        def __call__(self, tokens):
            seen = super().__call__(tokens)
            return Measurement(tokens, max(0, seen.bytes - 1200 * self.each), seen.seconds)

    machine = Hidden(0, MIB)
    found = choose(machine, bounds(3000 * MIB))
    # 60 % of 3000 MiB are 1800 MiB: 3000 tokens, in multiples of 64.
    assert found.tokens == 2944
    assert max(machine.tried) == 2944


def test_no_more_than_a_step_holds():
    machine = Machine(0, 1)
    found = choose(machine, bounds(1000 * MIB, share=1000))
    assert (found.tokens, found.reason) == (1000, "step")
    assert machine.tried == [256, 300, 600, 1000]


def test_no_more_than_is_faster():
    rates = {300: 900.0, 600: 1000.0, 1200: 1020.0}  # 1200 is faster than 600 by 2 %, which is nothing
    machine = Machine(0, 1, rate=lambda tokens: rates.get(tokens, 800.0))
    found = choose(machine, bounds(1000 * MIB))
    assert (found.tokens, found.reason) == (600, "speed")
    assert machine.tried == [256, 300, 600, 1200]


def test_sizes_below_the_longest_unit_say_nothing_about_speed():
    machine = Machine(0, 1, rate=lambda tokens: 2000.0 - tokens)  # short texts are the fastest
    found = choose(machine, bounds(1000 * MIB, longest=1500))
    assert machine.tried == [256, 512, 1024, 1500, 3000]
    assert (found.tokens, found.reason) == (1500, "speed")


def test_a_longest_unit_that_cannot_fit_is_known_before_it_is_tried():
    machine = Machine(100 * MIB, MIB)
    with pytest.raises(DoesNotFit) as caught:
        choose(machine, bounds(1000 * MIB, longest=3000, fixed=100 * MIB))
    assert machine.tried == [256, 512]
    assert (caught.value.tokens, caught.value.bytes, caught.value.free) == (3000, 3100 * MIB, 1000 * MIB)


def test_a_longest_unit_may_use_the_margin():
    found = choose(Machine(0, MIB), bounds(1000 * MIB, longest=900))
    assert (found.tokens, found.reason, found.bytes) == (900, "longest", 900 * MIB)


def test_what_is_there_at_any_size_may_be_too_much():
    machine = Machine(0, 1)
    with pytest.raises(DoesNotFit) as caught:
        choose(machine, bounds(10 * MIB, fixed=11 * MIB))
    assert machine.tried == []
    assert caught.value.tokens == 0


# -- where trying is safe


def test_a_bold_choice_extrapolates_and_verifies():
    machine = Machine(100 * MIB, MIB // 10)
    found = choose(machine, bounds(10_000 * MIB, careful=False))
    # 8000 MiB of 10,000: 79,000 tokens and a little, in multiples of 256.
    assert machine.tried == [1024, 2048, 4096, 78_848]
    assert (found.tokens, found.reason) == (78_848, "memory")


def test_a_bold_choice_steps_down_when_the_verification_fails():
    machine = Machine(100 * MIB, MIB // 10, breaks_at=60_000)
    found = choose(machine, bounds(10_000 * MIB, careful=False))
    assert machine.tried[:4] == [1024, 2048, 4096, 78_848]
    assert machine.tried[4:] == [70_912, 63_744, 57_344]  # nine tenths each time
    assert found.tokens == 57_344


def test_a_bold_choice_takes_no_more_than_a_step_holds():
    machine = Machine(0, MIB // 10)
    found = choose(machine, bounds(10_000 * MIB, share=5000, careful=False))
    assert (found.tokens, found.reason) == (5000, "step")
    assert machine.tried == [1024, 2048, 4096, 5000]


def test_a_bold_choice_goes_down_when_not_even_the_first_size_fits():
    machine = Machine(0, MIB, breaks_at=400)
    found = choose(machine, bounds(500 * MIB, longest=200, careful=False))
    assert machine.tried == [1024, 511, 255]
    assert (found.tokens, found.reason) == (255, "memory")


def test_a_bold_choice_says_when_the_longest_unit_does_not_fit():
    with pytest.raises(DoesNotFit) as caught:
        choose(Machine(0, MIB, breaks_at=5000), bounds(9000 * MIB, longest=6000, careful=False))
    assert (caught.value.tokens, caught.value.bytes) == (6000, None)
    with pytest.raises(DoesNotFit):
        choose(Machine(0, MIB, breaks_at=400), bounds(500 * MIB, longest=600, careful=False))


def test_a_bold_choice_gives_the_longest_unit_the_margin():
    machine = Machine(0, MIB)
    found = choose(machine, bounds(6500 * MIB, longest=6000, careful=False))
    assert (found.tokens, found.reason) == (6000, "longest")
