"""Gradient surgery: the tasks' gradients are combined by factors that lessen their conflict, by the library torchjd.

The factors follow from the gradients' inner products. They are taken where the gradients enter the shared layers, batch
by batch: gradients at features stand for those at the shared weights, as in MGDA-UB (arXiv 1810.04650). There the
combined gradient of ``pcgrad`` and ``mgda`` opposes no task; nor does that of ``upgrad``, up to what its solver's
regularisation leaves where one gradient is tens of times the other. Heads learn from their own task's weighted
gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from models.balancer import Balancer, TrainingRates

# name -> torchjd's class of weights, and its arguments
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "pcgrad": ("PCGradWeighting", {}),  # arXiv 2001.06782
    "cagrad": ("CAGradWeighting", {"c": 0.5}),  # arXiv 2110.14048
    "imtl_g": ("IMTLGWeighting", {}),  # Liu et al., ICLR 2021, "Towards impartial multi-task learning"
    "upgrad": ("UPGradWeighting", {}),  # arXiv 2406.16232
    "mgda": ("MGDAWeighting", {}),  # arXiv 1810.04650
}
INSTALL = 'pip install "torchjd[quadprog-projector,cagrad]>=0.18"'


class Surgery(Balancer):
    """The tasks' gradients, weighted, are combined at the border by a method's factors.

    The sum of the factors is the method's own: for two tasks 1 for ``mgda`` and ``imtl_g``, above 1 for ``cagrad``, 1
    or more for ``upgrad`` and 2 or more for ``pcgrad``, and the more, the more the gradients oppose each other and
    differ in size; a plain sum has 2. So the shared layers' effective rate differs.

    Args:
        method: a name from :data:`METHODS`.
        weights: (T,) of the tasks.
        rates: see :class:`models.balancer.Balancer`.

    Raises:
        ImportError: torchjd is not installed; the message says how to install it.
    """

    def __init__(self, method: str, weights: Sequence[float], rates: TrainingRates | None = None) -> None:
        super().__init__(weights, rates)
        if method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        name, arguments = METHODS[method]
        try:
            from torchjd import aggregation

            self._weighting = getattr(aggregation, name)(**arguments)
        except (ImportError, AttributeError) as error:  # older versions lack some of the names
            raise ImportError(f"{method} needs the package torchjd: {INSTALL}") from error

    def at_border(self, gramian: Callable[[], Tensor]) -> Tensor:
        """(T,) factors; ones where a gradient is zero (nothing to combine) or not finite (the step is skipped).

        A batch without a labelled view has a gradient of zero for it, which ``mgda`` would take for the whole answer.
        """
        products = gramian().detach().cpu().double()
        if not products.isfinite().all():
            return torch.ones(len(products))
        if not (products.diagonal() > 0).all():
            return torch.ones(len(products))
        # the factors are the same at any scale, but the library's tolerances are not
        factors: Tensor = self._weighting(products / products.trace())
        return factors if factors.any() else torch.ones(len(products))
