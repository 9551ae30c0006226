"""The evaluation's numbers as text: the same in the model card as in the page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which `vae info`, which reads cards, need not wait for
    import pandas as pd


def report_cells(report: pd.DataFrame) -> list[list[str]]:
    """The evaluation's table as text, as the card and the page show it: quantity, value, standard error, unit, definition.

    Args:
        report: by quantity.
    """
    return [
        [
            str(quantity),
            f"{row['value']:.5g}",
            "" if math.isnan(row["standard_error"]) else f"{row['standard_error']:.3g}",
            str(row["unit"]),
            str(row["definition"]),
        ]
        for quantity, row in report.iterrows()
    ]
