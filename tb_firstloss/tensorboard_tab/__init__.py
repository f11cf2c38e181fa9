"""The "First loss" tab in TensorBoard.

TensorBoard finds `loader.FirstLossLoader` through the entry point ``tensorboard_plugins``. The tab
reads through TensorBoard's data provider, so it sees the runs that the other tabs see, wherever
they are: `recordings` reads each one once, `rows` turns it into what the page shows, `plugin`
serves it, `refresh` lets no request wait for that, `files` says what is wrong with a file, and
``static/index.js`` is the page.
"""
