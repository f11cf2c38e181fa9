"""What the first loss should be, and the verdict on what it is."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tb_firstloss import checks
from tb_firstloss.capture.notices import tell, warn
from tb_firstloss.errors import UnexpectedLossError, UnexpectedLossWarning
from tb_firstloss.first_batch import FirstBatch


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What the first loss should be.

    Attributes:
        value: A number, or a mapping from names of losses and outputs to numbers, as `checks.check`
            compares them; None where nothing is expected.
        reason: What it was inferred from, or why it could not be; "" when it was given.
        rest: Which other losses nothing could be inferred for and why, such as "'g_loss': no
            initial loss is known for mse"; "" where there are none.
    """

    value: float | Mapping[str, float] | None
    reason: str = ""
    rest: str = ""

    def metadata(self) -> dict[str, Any]:
        """Returns its entries in the recording's metadata."""
        value = dict(self.value) if isinstance(self.value, Mapping) else self.value
        facts = {"expected_loss": value, "expected_from": self.reason}
        return {key: fact for key, fact in facts.items() if fact not in (None, "")}

    def judge(self, first: FirstBatch, *, where: str, on_error: str = "warn") -> None:
        """Warns if a first loss is not as expected, or if nothing was compared, in whole or part.

        With ``on_error="raise"``, it raises an UnexpectedLossError or CaptureError instead.
        """
        if first.is_empty:
            return  # nothing was captured, and a warning has said so
        if self.value is None:
            if self.reason:
                tell(f"{where}: expect='auto' expects nothing: {self.reason}", on_error)
            return
        try:
            verdict = checks.check(first, self.value)
        except ValueError as error:
            reason = str(error).removeprefix(f"{first.run}: ")
            tell(f"{where}: not compared with the expectation: {reason}", on_error)
            return
        if not verdict.ok and on_error == "raise":
            raise UnexpectedLossError(f"{where}: {verdict}")
        if not verdict.ok:
            warn(f"{where}: {verdict}", UnexpectedLossWarning)
        if self.rest:
            tell(f"{where}: expect='auto' expects nothing of {self.rest}", on_error)


NOT_SEEN = Expectation(None, "the loss function was not seen")
