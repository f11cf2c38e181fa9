"""The step's graphs: its concrete function's, and those built while the window was open."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.window import tensorflow_private
from tb_firstloss.capture.writing import summaries
from tb_firstloss.errors import first_line

NO_GRAPH = (
    "graph: the step built none; it ran eagerly, or called functions that were built before or are "
    "jit-compiled"
)
NO_COLLECTOR = "graph trace: this version of TensorFlow offers no known way to stop it again"
USER_TRACE = "graph trace: tf.summary.trace_on is already on, and was left alone"
OTHER_TRACE = "graph trace: another recorder collects graphs, and was left alone"
TAKEN = (
    "graph trace: the step, or another thread, called tf.summary.trace_on, trace_export or "
    "trace_off itself; the recorder's was withdrawn"
)


@contextlib.contextmanager
def collecting(missing: list[str]) -> Iterator[list[Any]]:
    """Collects the graphs of all functions built inside; ``missing`` gets a line if it cannot.

    Yields a list that holds the RunMetadata proto at the end, if any was collected.
    """
    collected: list[Any] = []
    collector = tensorflow_private.graph_collector()
    if collector is None:
        missing.append(NO_COLLECTOR)
        yield collected
        return

    def stop() -> Any:
        try:
            return collector.export_run_metadata()
        finally:
            collector.disable_graph_collection()

    def withdraw() -> None:
        missing.append(TAKEN)
        stop()

    ours = tensorflow_private.Precedence(tensorflow_private.Precedence.TRACE, withdraw)
    try:
        if tensorflow_private.running_trace() is not None:
            missing.append(USER_TRACE)
        elif not ours.begin():
            missing.append(OTHER_TRACE)
        else:
            # An earlier trace of the user may still collect graphs; they are not this step's.
            collector.export_run_metadata()
            collector.enable_graph_collection()
            ours.running = True
        yield collected
    finally:
        if ours.end():
            collected.append(stop())


def step_graph(step_fn: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tf.Graph | None:
    """Returns the graph of the concrete function that a call has just run; None without one.

    The function is in the cache, so nothing is traced again.
    """
    if tf.config.functions_run_eagerly() or not hasattr(step_fn, "experimental_get_tracing_count"):
        return None
    if step_fn.experimental_get_tracing_count() == 1:
        # The common case: the only trace is what ran, even if the step has changed an argument,
        # which would make the lookup below trace again.
        functions = tensorflow_private.concrete_functions(step_fn)
        if len(functions) == 1:
            return functions[0].graph
    return step_fn.get_concrete_function(*args, **kwargs).graph


def write_graphs(
    step_graph: tf.Graph | None, run_metadata: Any, *, tag: str, step: int, missing: list[str]
) -> None:
    """Writes the step's graph, and what the window collected, to the default writer.

    Either is None where it is not known; ``missing`` gets a line if there is no graph at all.
    """
    try:
        if step_graph is not None:
            tf.summary.graph(step_graph)
        if run_metadata is None:
            return
        chosen = choose_function_graphs(run_metadata.function_graphs, step_graph)
        if chosen:
            traced = tf.compat.v1.RunMetadata(function_graphs=chosen)
            summaries.write_graph_trace(tag, traced, step=step)
        elif step_graph is None:
            missing.append(NO_GRAPH)
    except Exception as error:  # noqa: BLE001 - for example a graph too large for a proto
        missing.append(f"graph: it could not be written ({first_line(error, named=True)})")


def choose_function_graphs(collected: Sequence[Any], step_graph: tf.Graph | None) -> list[Any]:
    """Returns those of a RunMetadata's FunctionGraphs that show the step.

    TensorBoard draws all of them in one picture, in which the step would be lost: TensorFlow wraps
    every eager operation in a function, and variables made in the first step add initializers.

    Given the graph of the step's concrete function, this keeps only the function that shares most
    nodes with it, provided they are more than half of the step's. Where another function calls the
    step, they are fewer.
    """
    functions = [
        function
        for function in collected
        if len(tensorflow_private.operation_types(function.pre_optimization_graph.node)) > 1
    ]
    if step_graph is None or not functions:
        return functions
    names = {operation.name for operation in step_graph.get_operations()}

    def shared(function: Any) -> int:
        return len(names & {node.name for node in function.pre_optimization_graph.node})

    best = max(functions, key=shared)
    return [best] if shared(best) > len(names) / 2 else []
