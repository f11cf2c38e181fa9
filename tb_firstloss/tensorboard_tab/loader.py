"""The entry point: gives TensorBoard the tab or nothing, never an error."""

import logging

# TensorBoard does not start if importing an entry point fails, so this imports only the standard
# library and a module that TensorBoard itself has imported by now.
from tensorboard.plugins import base_plugin

logger = logging.getLogger(__name__)


class FirstLossLoader(base_plugin.TBLoader):  # type: ignore[misc]  # TensorBoard has no types
    """Loads the tab if everything it needs is there."""

    def load(self, context: base_plugin.TBContext) -> base_plugin.TBPlugin | None:
        """Returns the tab, or None after logging the reason in one line."""
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
