"""fuse(graph): fold batch normalisation, activations, additions and upsampling into what comes before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import inf

from skipsim.traces.execute.graph import Affine, Convolution, Graph, Operation, Pad, Pool, Sum


def fuse(graph: Graph) -> Graph:
    """Return a graph of the same function with fewer operations; what nobody reads is dropped.

    Every rule joins an operation with the one that made its source, if nobody else reads that source.
    """
    operations = _needed(graph.operations, graph)
    while True:
        readers = Counter(source for operation in operations for source in operation.sources)
        readers.update(graph.returned)
        joined = _join_first(operations, readers)
        if joined is None:
            return replace(graph, operations=tuple(operations))
        operations = joined


def _needed(operations: tuple[Operation, ...], graph: Graph) -> list[Operation]:
    wanted = set(graph.returned)
    kept = []
    for operation in reversed(operations):
        if operation.output in wanted:
            wanted.update(operation.sources)
            kept.append(operation)
    return kept[::-1]


def _join_first(operations: list[Operation], readers: Counter[int]) -> list[Operation] | None:
    """Apply every rule wherever it fits, once over the list; None if none fits."""
    made: dict[int, Operation] = {}
    changed = False
    for operation in operations:
        for rule in RULES:
            for source in operation.sources:
                maker = made.get(source)
                result = rule(maker, operation) if maker is not None and readers[source] == 1 else None
                if result is not None:
                    del made[source]
                    operation, changed = result, True
                    break
        made[operation.output] = operation
    return list(made.values()) if changed else None


def _fold_scaling(maker: Operation, operation: Operation) -> Operation | None:
    """Fold a scale and shift per channel that follows a convolution, or another scale and shift, into it."""
    if isinstance(operation, Sum) and len(operation.sources) == 1 and operation.factors == ((1, 1),):
        scale, shift, activation = operation.scales[0], 0.0, operation.activation
        if isinstance(maker, Sum) and len(maker.sources) > 1 and scale != 1:
            return None
    elif isinstance(operation, Affine):
        scale, shift, activation = operation.scale.double(), operation.shift.double(), operation.activation  # type: ignore[assignment]
    else:
        return None
    if getattr(maker, "activation", None) != "none":
        return None
    if isinstance(maker, Convolution):
        factor = scale if isinstance(scale, float) else scale.reshape(-1, 1, 1, 1)
        weight = (maker.weight.double() * factor).float()
        bias = (maker.bias.double() * scale + shift).float()
        return replace(maker, weight=weight, bias=bias, activation=activation, output=operation.output)
    if isinstance(maker, Affine):
        return replace(
            maker,
            scale=(maker.scale.double() * scale).float(),
            shift=(maker.shift.double() * scale + shift).float(),
            activation=activation,
            output=operation.output,
        )
    if isinstance(maker, Sum) and isinstance(operation, Sum):
        scales = tuple(each * operation.scales[0] for each in maker.scales)
        return replace(maker, scales=scales, activation=activation, output=operation.output)
    return None


def _inline_sum(maker: Operation, operation: Operation) -> Operation | None:
    """Replace a source that is itself a sum by its terms."""
    if not isinstance(maker, Sum) or not isinstance(operation, Sum):
        return None
    if maker.activation != "none":
        return None
    place = operation.sources.index(maker.output)
    scale, factor = operation.scales[place], operation.factors[place]
    if len(operation.sources) - 1 + len(maker.sources) > MOST_TERMS:
        return None
    terms = [
        (source, own * scale, (up[0] * factor[0], up[1] * factor[1]))
        for source, own, up in zip(maker.sources, maker.scales, maker.factors, strict=True)
    ]
    all_terms = list(zip(operation.sources, operation.scales, operation.factors, strict=True))
    all_terms[place : place + 1] = terms
    sources, scales, factors = zip(*all_terms, strict=True)
    return replace(operation, sources=sources, scales=scales, factors=factors)


def _fold_padding(maker: Operation, operation: Operation) -> Operation | None:
    """Let a convolution or a maximum take the padding before it as its own."""
    if not isinstance(maker, Pad):
        return None
    if isinstance(operation, Convolution) and maker.value == 0 and not any(operation.absorbed):
        layer = operation.layer
        top, bottom, left, right = (a + b for a, b in zip(maker.padding, operation.padding, strict=True))
        rows = layer.in_rows - maker.padding[0] - maker.padding[1]
        cols = layer.in_cols - maker.padding[2] - maker.padding[3]
        layer = replace(layer, in_rows=rows, in_cols=cols, padding_top=top, padding_left=left)
        padding = (top, bottom, left, right)
        return replace(operation, source=maker.source, layer=layer, padding=padding, absorbed=maker.padding)
    if isinstance(operation, Pool) and operation.kind == "max" and maker.value == -inf and not any(operation.padding):
        return replace(operation, source=maker.source, padding=maker.padding)
    return None


MOST_TERMS = 4  # what one kernel takes
RULES: tuple[Callable[[Operation, Operation], Operation | None], ...] = (_fold_padding, _fold_scaling, _inline_sum)
