"""Models of devices that can be simulated: facts in a table, those we made up marked.

Bus ids and NUMA nodes of the 910B follow published samples; of the 910A and the A3 one or two
samples are known and the rest is made up.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """One model. `table_name` is npu-smi's in the main table, `map_name` in `info -m`.

    Memory in MB: `hbm` of a chip, `idle` of it in use by nobody, `ddr` as (used, total).
    `ring` is how many neighbouring devices one HCCS ring joins.
    """

    name: str
    table_name: str
    map_name: str
    chips: int
    hbm: int
    idle: int
    ddr: tuple[int, int]
    buses: tuple[str, ...]
    numa: tuple[int, ...]
    ring: int
    pci_device: str


_BUSES_910B = ("C1", "C2", "81", "82", "01", "02", "41", "42")
_BUSES_910A = ("61", "62", "DA", "DB", "21", "22", "9A", "9B")  # but for 61 made up
# But for 9D and 9F made up.
# fmt: off
_BUSES_A3 = (
    "9D", "9F", "99", "9B", "95", "97", "91", "93",
    "1D", "1F", "19", "1B", "15", "17", "11", "13",
)
# fmt: on


def _a2(name: str, hbm: int) -> Model:
    numa = (6, 6, 4, 4, 0, 0, 2, 2)
    return Model(name, name, f"Ascend {name}", 1, hbm, 3318, (0, 0), _BUSES_910B, numa, 8, "0xD802")


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            "910A",
            "910A",
            "Ascend 910A",
            1,
            32768,
            1647,
            (2280, 15039),
            _BUSES_910A,
            (0, 0, 1, 1, 2, 2, 3, 3),  # made up
            4,
            "0xD801",
        ),
        _a2("910B1", 65536),
        _a2("910B3", 65536),
        _a2("910B4", 32768),
        Model(
            "A3",
            "Ascend910",
            "Ascend910",
            2,
            65536,
            3173,
            (0, 0),
            _BUSES_A3,
            tuple(number // 4 for number in range(16)),  # made up
            16,
            "0xD802",
        ),
    )
}
MAX_CARDS = 8
