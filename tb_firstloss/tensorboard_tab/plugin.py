"""The tab's routes: the page's files, the recordings, and the comparison of two of them."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from tb_firstloss import contract
from tb_firstloss.first_batch import FirstBatch
from tb_firstloss.tensorboard_tab import rows
from tb_firstloss.tensorboard_tab.recordings import Recordings
from tb_firstloss.tensorboard_tab.refresh import Refresher

App = Callable[..., Any]

_STATIC = Path(__file__).with_name("static")
_CONTENT_TYPES = {".js": "text/javascript", ".css": "text/css"}
_FILES = [file for file in _STATIC.iterdir() if file.suffix in _CONTENT_TYPES]


class FirstLossPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # TensorBoard has no types
    """Shows every recording in the logdir in one table."""

    plugin_name = contract.PLUGIN_NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._recordings = Recordings(context.data_provider, context.logdir)
        self._refresher = Refresher(self._recordings)

    def get_plugin_apps(self) -> dict[str, App]:
        """Returns the WSGI applications by path below the tab's prefix."""
        routes: dict[str, App] = {
            **{f"/{file.name}": functools.partial(_serve_file, file) for file in _FILES},
            "/recordings": self._serve_recordings,
            "/comparison": self._serve_comparison,
        }
        return {path: wrappers.Request.application(serve) for path, serve in routes.items()}

    def is_active(self) -> bool:
        """Leaves the answer to TensorBoard, which asks the data provider for this plugin's data."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Returns how TensorBoard shows the tab."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="First loss")

    def _serve_recordings(self, request: wrappers.Request) -> Any:
        """Answers ``{"version", "recordings"}``, or only the version if the page has that one."""
        context, experiment_id = _identify(request)
        version, body = self._refresher.answer(context, experiment_id)
        if version and request.args.get("have") == version:
            return http_util.Respond(request, json.dumps({"version": version}), "application/json")
        return http_util.Respond(request, body, "application/json", content_encoding="gzip")

    def _serve_comparison(self, request: wrappers.Request) -> Any:
        context, experiment_id = _identify(request)
        pair = []
        for side in ("a", "b"):
            run = request.args.get(f"{side}_run", "")
            first = self._recordings.read(context, experiment_id, run)
            if not isinstance(first, FirstBatch):
                return http_util.Respond(request, f"{run}: {first}", "text/plain", code=404)
            pair.append((first, request.args.get(f"{side}_row", "")))
        try:
            found = rows.compare(*pair)
        except ValueError as error:  # a recording has no such row
            return http_util.Respond(request, str(error), "text/plain", code=404)
        return http_util.Respond(request, json.dumps(found, allow_nan=False), "application/json")


def _serve_file(file: Path, request: wrappers.Request) -> Any:
    return http_util.Respond(request, file.read_bytes(), _CONTENT_TYPES[file.suffix])


def _identify(request: wrappers.Request) -> tuple[Any, str]:
    return plugin_util.context(request.environ), plugin_util.experiment_id(request.environ)
