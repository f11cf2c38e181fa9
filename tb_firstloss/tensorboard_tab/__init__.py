"""The "First loss" tab in TensorBoard.

TensorBoard finds `loader.FirstLossLoader` through the entry point ``tensorboard_plugins``. The
tab reads through TensorBoard's own data provider, so it sees the runs that the other tabs see,
wherever they are stored: `recordings` reads each one once, `rows` turns it into what the page
shows, `plugin` serves both, and ``index.js`` is the page.
"""
