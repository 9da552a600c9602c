"""The registers of the machine as one structure."""

from __future__ import annotations

from typing import Final

from amaranth.lib import data

from sw.config import COUNT_BITS, MachineConfig

#: Counts of 16 bits: rows, terms, tiles and batches of a product.
COUNTS: Final = ("mx", "my", "k0", "k1", "k2", "nt", "nl", "g")
#: Word addresses and strides in tile memory, of ``address_bits`` each.
ADDRESSES: Final = (
    *("a_base", "a_x", "a_y", "a_k0", "a_k1", "a_k2", "a_n", "a_g"),
    *("b_base", "b_x", "b_k0", "b_k1", "b_k2", "b_n", "b_g"),
    *("o_base", "o_x", "o_y", "o_n", "o_g"),
)
#: Entries and strides in the parameter memories, of 16 bits, taken modulo their depth.
PARAMETERS: Final = ("p_column", "p_column_g", "p_row", "p_row_g")


def registers_layout(config: MachineConfig) -> data.StructLayout:
    """All registers, each under its name in lower case and as wide as its values.

    Parameters
    ----------
    config : MachineConfig

    Returns
    -------
    StructLayout
        Counts and parameter entries of 16 bits, addresses of ``config.address_bits``, ``clamp`` a
        word, ``a_mode`` 1 bit, ``b_mode`` 2 bits, ``tile_base`` 16 bits.
    """
    return data.StructLayout(
        {
            **dict.fromkeys(COUNTS, COUNT_BITS),
            **dict.fromkeys(ADDRESSES, config.address_bits),
            **dict.fromkeys(PARAMETERS, COUNT_BITS),
            "clamp": config.bits,
            "a_mode": 1,
            "b_mode": 2,
            "tile_base": COUNT_BITS,
        }
    )
