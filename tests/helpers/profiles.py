"""Profiles as xprof and TensorFlow's protocol buffers read them."""

import json
from typing import NamedTuple

from tensorflow.tsl.profiler.protobuf import xplane_pb2
from xprof.convert import raw_to_tool_data


def marked_steps(path):
    """Returns name, number and milliseconds of each step on xprof's overview page."""
    content, _ = raw_to_tool_data.xspace_to_tool_data(
        [str(path)], "overview_page", {"use_saved_result": False}
    )
    steps = []
    for table in json.loads(content):
        names = [column["id"] for column in table.get("cols", ())]
        if "stepnum" in names:
            for row in table["rows"]:
                cells = dict(zip(names, (cell["v"] for cell in row["c"]), strict=True))
                name = cells["stepnum"]
                steps.append((name, int(name.split()[1]), cells["stepTimeMs"]))
    return steps


class Event(NamedTuple):
    """An event of a profile; times in picoseconds since the profile's start."""

    name: str
    start: int
    end: int


def events(space):
    """Yields every event of an XSpace proto."""
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                start = line.timestamp_ns * 1000 + event.offset_ps
                name = plane.event_metadata[event.metadata_id].name
                yield Event(name, start, start + event.duration_ps)


def read_xspace(path):
    """Returns the XSpace proto of a profile."""
    return xplane_pb2.XSpace.FromString(path.read_bytes())


def write_xspace(space, path):
    """Writes an XSpace proto as the profiler does."""
    path.write_bytes(space.SerializeToString())
