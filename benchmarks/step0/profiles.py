"""What a profile holds of a device, and what `tb-firstloss profile` says of its time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tensorflow.tsl.profiler.protobuf import xplane_pb2
from xprof.convert import raw_to_tool_data

from tb_firstloss.profiles.step_profile import find_profile, read_profile


def describe_profile(run_dir: Path) -> dict[str, Any]:
    """Returns the planes, step markers, times, kernels and peak memory of a run's profile."""
    (path,) = find_profile(run_dir)
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    profile = read_profile(run_dir)
    kernels = list_kernels(path)
    return {
        "planes": [plane.name for plane in space.planes],
        "device_events": {
            plane.name: sum(len(line.events) for line in plane.lines)
            for plane in space.planes
            if plane.name.startswith("/device:")
        },
        "markers": sum(count_markers(p) for p in space.planes if p.name.startswith("/host:")),
        "step": profile.step,
        "seconds": profile.seconds,
        "shares": profile.shares,
        "kernel_count": len(kernels),
        "kernels": kernels[:10],
        "peak_bytes": profile.peak_bytes,
        "bytes": path.stat().st_size,
    }


def count_markers(plane: xplane_pb2.XPlane) -> int:
    """Returns how many events of a host's plane carry the number of a step that roots there."""
    names = {number: metadata.name for number, metadata in plane.stat_metadata.items()}
    return sum(
        {"step_num", "_r"} <= {names[stat.metadata_id] for stat in event.stats}
        for line in plane.lines
        for event in line.events
    )


def list_kernels(path: Path) -> list[dict[str, Any]]:
    """Returns the kernels that the Profile dashboard lists, the most expensive first."""
    content, _ = raw_to_tool_data.xspace_to_tool_data(
        [str(path)], "kernel_stats", {"use_saved_result": False}
    )
    table = json.loads(content)
    names = [column["id"] for column in table["cols"]]
    rows = [
        dict(zip(names, (cell["v"] for cell in row["c"]), strict=True)) for row in table["rows"]
    ]
    kernels = [
        {
            "name": row["kernel_name"],
            "operation": row["op_name"],
            "count": int(row["occurrences"]),
            "microseconds": row["total_duration_us"],
        }
        for row in rows
    ]
    return sorted(kernels, key=lambda kernel: -kernel["microseconds"])
