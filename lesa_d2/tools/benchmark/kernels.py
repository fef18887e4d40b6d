"""What the fused kernels cost on cards that are not here, read off the machine code that Triton compiles for them.

A pass takes at least the time in which a card can issue its instructions: each of its multiprocessors issues one for
32 threads in each of four units a clock, and computes 16 exponentials a clock.
"""

# mypy: ignore-errors

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tqdm import tqdm

from ...errors import LesaError
from ...layers.attention.tiles import KERNELS, kernel_options
from .report import markdown

ARITHMETIC = {"half": "bf16", "tf32": "fp32", "ieee": "fp32"}
"""Kinds of products of vectors, each with the dtype of the vectors that it is compiled for."""
VECTORS = ("q", "k", "v", "grad", "out", "dq", "dk", "dv")
HEADS = ((6, 3), (12, 6), (16, 32), (32, 64), (64, 64), (64, 128), (96, 96), (128, 128))
"""Key and value channels of the heads of our models, of detectron2's ViTDet and MViTv2, and the largest."""
SIDE, MAPS = 64, 8  # one image of 1024 px at stride 16, 8 heads
LOGITS = SIDE**4 * MAPS
ISSUED, EXPONENTIALS = 4, 16  # of a multiprocessor, a clock

MAX_EXPONENTIALS = 1.15  # a logit: more means that warps repeat each other's work
MAX_SPILLED = 128  # bytes a thread


@dataclass(frozen=True)
class Card:
    """A card, by its maker's data sheet.

    Attributes:
        name: of the card.
        capability: compute capability times ten.
        processors: its streaming multiprocessors.
        clock: boost clock in GHz.
        shared: shared memory that a program may have, in KB.
    """

    name: str
    capability: int
    processors: int
    clock: float
    shared: int


CARDS = (
    Card("A100", 80, 108, 1.41, 163),
    Card("RTX 3090", 86, 82, 1.70, 99),
    Card("RTX 4090", 89, 128, 2.52, 99),
    Card("H100 SXM", 90, 132, 1.98, 227),
    Card("B200", 100, 148, 1.97, 227),
    Card("RTX 5090", 120, 170, 2.41, 99),
)


@dataclass(frozen=True)
class Case:
    """A pass of the kernels, on a card, for heads of these channels."""

    card: Card
    arithmetic: str
    key_dim: int
    value_dim: int
    name: str


@dataclass(frozen=True)
class Cost:
    """What the machine code of a pass says.

    Attributes:
        registers: of a thread.
        spilled: bytes of a thread that did not fit into registers.
        shared: KB of shared memory of a program.
        instructions: of the inner loop, for 32 logits.
        exponentials: of the inner loop, a logit.
    """

    registers: int
    spilled: int
    shared: float
    instructions: float
    exponentials: float

    def seconds(self, card: Card) -> float:
        """Return the least time of the pass for one image of 1024 px and 8 heads: that of the slower units."""
        issued = self.instructions / 32 / ISSUED
        return LOGITS * max(issued, self.exponentials / EXPONENTIALS) / (card.processors * card.clock * 1e9)

    def breaches(self, card: Card) -> list[str]:
        """Return the limits that the pass breaks on ``card``."""
        found = {
            f"{self.exponentials:.2f} exponentials a logit": self.exponentials > MAX_EXPONENTIALS,
            f"{self.spilled} bytes spilled": self.spilled > MAX_SPILLED,
            f"{self.shared:.0f} KB of shared memory": self.shared > card.shared,
        }
        return [text for text, is_breach in found.items() if is_breach]


def cases(cards: Sequence[Card], arithmetic: Sequence[str], heads: Sequence[tuple[int, int]]) -> list[Case]:
    """Return all passes on these cards."""
    return [
        Case(card, kind, *dims, name) for card, kind, dims, name in product(cards, arithmetic, heads, KERNELS)
    ]


def compile_case(case: Case) -> Cost:
    """Compile a pass, and read its cost; no device is needed."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ...layers.attention import triton_kernels

    kernel = getattr(triton_kernels, KERNELS[case.name])
    major = case.card.capability // 10
    constants = kernel_options(case.name, case.arithmetic, case.key_dim, case.value_dim, SIDE, major)
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages")}
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: _type(name, constants, ARITHMETIC[case.arithmetic]) for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in constants},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", case.card.capability, 32), options=options)
    tile = constants["QUERIES"] * constants["SEGMENT"] * constants["ROWS"]
    return read_cost(compiled, tile / options["num_warps"])


def _type(argument: str, constants: dict[str, object], vectors: str) -> str:
    """Return the type of an argument of a kernel, as Triton writes it."""
    if argument in constants:
        return "constexpr"
    if not argument.endswith("_ptr"):
        return "i32"
    return f"*{vectors}" if argument.removesuffix("_ptr") in VECTORS else "*fp32"


def read_cost(compiled: object, logits: float) -> Cost:
    """Read the cost of a compiled kernel, whose warps compute ``logits`` each in a turn of the inner loop."""
    usage = re.search(
        r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", _tool("cuobjdump", compiled, "-res-usage")
    )
    registers, stack, local = map(int, usage.groups())
    loop = inner_loop(_tool("nvdisasm", compiled, "-c"))
    return Cost(
        registers=registers,
        spilled=stack + local,
        shared=compiled.metadata.shared / 1024,
        instructions=32 * sum(loop.values()) / logits,
        exponentials=32 * loop["MUFU"] / logits,
    )


def _tool(name: str, compiled: object, *arguments: str) -> str:
    """Return what a tool of NVIDIA that comes with Triton says of the machine code."""
    import triton

    folder = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(folder / name), *arguments, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def inner_loop(disassembly: str) -> Counter:
    """Count the instructions, by their first word, of the largest innermost loop that computes exponentials."""
    code, labels = [], {}
    for line in disassembly.splitlines():
        if label := re.match(r"\s*(\.L_\S+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+\s+)?(.*?)\s*;", line):
            code.append(instruction[1])
    loops = [(start, end) for end, text in enumerate(code) for start in _loop_starts(text, labels, end)]
    bodies = [
        Counter(text.split()[0].split(".")[0] for text in code[start : end + 1])
        for start, end in loops
        if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in loops)
    ]
    return max((body for body in bodies if body["MUFU"]), key=lambda body: body.total())


def _loop_starts(instruction: str, labels: dict[str, int], end: int) -> Iterator[int]:
    """Yield where a jump backwards goes."""
    jump = re.match(r"BRA\b.*`\((\.L_\S+)\)", instruction)
    if jump and labels.get(jump[1], end + 1) <= end:
        yield labels[jump[1]]


def compile_cases(wanted: Sequence[Case], jobs: int | None = None) -> dict[Case, Cost]:
    """Compile all passes, several at a time.

    Raises:
        LesaError: a pass cannot be compiled.
    """
    jobs = jobs or len(os.sched_getaffinity(0))
    found = {}
    with ProcessPoolExecutor(jobs) as pool:
        futures = {case: pool.submit(compile_case, case) for case in wanted}
        for case, future in tqdm(futures.items(), desc="Compiling", unit="pass"):
            try:
                found[case] = future.result()
            except Exception as error:
                raise LesaError(f"{case} cannot be compiled: {error}") from error
    return found


def kernels_table(found: dict[Case, Cost]) -> str:
    """Return Markdown: the cards, and a row for each card, arithmetic and head, with the figures of the passes."""
    groups = {}
    for case, cost in found.items():
        groups.setdefault((case.card, case.arithmetic, case.key_dim, case.value_dim), []).append(cost)
    headers = ["card", "products", "head", "registers", "spilled, B", "shared, KB"]
    headers += ["instructions for 32 logits", "exponentials a logit", "least time, µs"]
    explanation = (
        "Figures are those of the forward pass · the gradients of queries · the gradients of keys. The least time is "
        f"that of one image of {16 * SIDE} px with {MAPS} heads: the logits, times the instructions of one "
        f"({ISSUED} × 32 a clock and multiprocessor) or its exponentials ({EXPONENTIALS} a clock and multiprocessor), "
        "whichever takes longer. Nothing has been run; a GPU takes longer, and waits for memory too."
    )
    tables = (_cards_table({case.card for case in found}), markdown(headers, [*map(_row, groups.items())]))
    return "\n\n".join((explanation, *tables))


def _cards_table(cards: set[Card]) -> str:
    rows = [
        [
            card.name,
            f"{card.capability / 10:.1f}",
            str(card.processors),
            f"{card.clock:.2f}",
            str(card.shared),
        ]
        for card in CARDS
        if card in cards
    ]
    return markdown(
        ["card", "compute capability", "multiprocessors", "clock, GHz", "shared memory, KB"], rows
    )


def _row(group: tuple[tuple[Card, str, int, int], list[Cost]]) -> list[str]:
    (card, arithmetic, key_dim, value_dim), costs = group
    microseconds = [1e6 * cost.seconds(card) for cost in costs]
    columns = [
        [str(cost.registers) for cost in costs],
        [str(cost.spilled) for cost in costs],
        [f"{cost.shared:.0f}" for cost in costs],
        [f"{cost.instructions:.1f}" for cost in costs],
        [f"{cost.exponentials:.2f}" for cost in costs],
    ]
    names = {"half": "bfloat16", "tf32": "TF32", "ieee": "float32"}
    head = [card.name, names[arithmetic], f"{key_dim}/{value_dim}"]
    times = f"{' + '.join(f'{us:.0f}' for us in microseconds)} = {sum(microseconds):.0f}"
    return [*head, *(" · ".join(column) for column in columns), times]
