"""The entry point: gives TensorBoard the tab, or nothing, and never an error."""

from __future__ import annotations

import logging

# TensorBoard does not start at all when importing an entry point fails. So only the standard
# library is imported here, and the module that TensorBoard itself has imported by now.
from tensorboard.plugins import base_plugin

logger = logging.getLogger(__name__)


class FirstLossLoader(base_plugin.TBLoader):  # type: ignore[misc]  # TensorBoard has no types
    """Loads the tab if everything that it needs is there."""

    def load(self, context: base_plugin.TBContext) -> base_plugin.TBPlugin | None:
        """Returns the tab, or None after one line in the log that says why not."""
        if context.data_provider is None:
            logger.warning("no First loss tab: TensorBoard runs without a data provider")
            return None
        try:
            from tb_firstloss.tensorboard_tab.plugin import FirstLossPlugin
        except Exception as error:  # noqa: BLE001 - a broken package can raise anything
            logger.warning(
                "no First loss tab: %s: %s; reinstall tb-firstloss with its dependencies",
                type(error).__name__,
                error,
            )
            return None
        return FirstLossPlugin(context)
