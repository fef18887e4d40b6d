"""What the fused kernels cost on GPUs that are not here, by their machine code."""

import pytest

pytest.importorskip("triton", minversion="3.3")

from lesa_d2.commands.benchmark import main
from lesa_d2.tools.benchmark.kernels import (
    CARDS,
    LOGITS,
    Case,
    Cost,
    compile_case,
    inner_loop,
    kernels_table,
)

BY_CAPABILITY = {card.capability: card for card in CARDS}
BARS = {"half": 240e-6, "tf32": 530e-6}
"""Seconds that all passes may take at least on an A100, for heads of 16 and 32 channels."""


@pytest.mark.parametrize("arithmetic", BARS)
def test_the_least_time_on_an_a100(arithmetic):
    card, seconds = BY_CAPABILITY[80], 0
    for name in ("forward", "queries", "keys"):
        cost = compile_case(Case(card, arithmetic, 16, 32, name))
        assert cost.breaches(card) == []
        seconds += cost.seconds(card)
    assert seconds <= BARS[arithmetic]


@pytest.mark.parametrize(
    ("capability", "arithmetic", "heads", "name"),
    [
        (86, "half", (128, 128), "queries"),
        (89, "tf32", (96, 96), "keys"),
        (90, "half", (64, 128), "keys"),
        (100, "half", (64, 64), "queries"),
        (120, "half", (6, 3), "keys"),
        (89, "ieee", (16, 32), "forward"),
    ],
)
def test_limits(capability, arithmetic, heads, name):
    """A sample; ``lesa benchmark kernels`` has them all."""
    card = BY_CAPABILITY[capability]
    assert compile_case(Case(card, arithmetic, *heads, name)).breaches(card) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--heads", "7/7"], "--heads takes some of 6/3"),
        (["--report", "none/kernels.md"], "there is no folder none"),
        (["--capabilities", "75"], "invalid choice: 75"),
    ],
)
def test_arguments_are_checked_before_anything_is_compiled(arguments, words, capsys):
    with pytest.raises(SystemExit):
        main(["kernels", *arguments])
    assert words in capsys.readouterr().err


def test_breaches_are_named():
    cost = Cost(registers=255, spilled=200, shared=120.0, instructions=20.0, exponentials=2.0)
    assert cost.breaches(BY_CAPABILITY[89]) == [
        "2.00 exponentials a logit",
        "200 bytes spilled",
        "120 KB of shared memory",
    ]
    assert len(cost.breaches(BY_CAPABILITY[80])) == 2


def test_the_slower_units_decide():
    card = BY_CAPABILITY[80]
    cycles = card.processors * card.clock * 1e9
    assert Cost(1, 0, 1.0, 12.8, 1.0).seconds(card) == pytest.approx(LOGITS * 0.1 / cycles)
    assert Cost(1, 0, 1.0, 4.0, 1.6).seconds(card) == pytest.approx(LOGITS * 0.1 / cycles)


def test_the_inner_loop_is_that_with_the_exponentials():
    lines = [
        ".L_outer:",
        "/*0000*/  MOV R1, R2 ;",
        ".L_inner:",
        "/*0010*/  MUFU.EX2 R1, R2 ;",
        "/*0020*/  @!P0 FADD R1, R2, R3 ;",
        "/*0030*/  @P1 BRA `(.L_inner) ;",
        ".L_other:",
        "/*0040*/  FADD R1, R2, R3 ;",
        "/*0050*/  FADD R1, R2, R3 ;",
        "/*0060*/  FADD R1, R2, R3 ;",
        "/*0070*/  @P1 BRA `(.L_other) ;",
        "/*0080*/  @P1 BRA `(.L_outer) ;",
    ]
    assert inner_loop("\n".join(lines)) == {"MUFU": 1, "FADD": 1, "BRA": 1}


def test_the_table_has_a_row_for_each_card_and_head():
    cost = Cost(100, 0, 20.0, 10.0, 1.0)
    found = {
        Case(card, "half", 16, 32, name): cost for card in CARDS for name in ("forward", "queries", "keys")
    }
    table = kernels_table(found)
    assert all(table.count(f"| {card.name} ") == 2 for card in CARDS)  # its figures, and the row
    assert "100 · 100 · 100" in table
    assert table.count("bfloat16") == len(CARDS)
