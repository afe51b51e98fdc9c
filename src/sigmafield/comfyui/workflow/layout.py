"""Positions of a graph's nodes where nothing gives them: columns by depth, rows in the order of what feeds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GAP = (60, 50)
"""Pixels between columns, and between nodes in one."""


@dataclass(frozen=True)
class Box:
    """Where a node is: its upper left corner and its size, in pixels of ComfyUI's page."""

    x: float
    y: float
    width: float
    height: float


def depths(feeds: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The length of the longest way from a source to each node; links of a circle count up to where it closes.

    Args:
        feeds: The nodes that each node has links from.
    """
    found: dict[str, int] = {}
    for start in feeds:
        trail = [start]
        while trail:
            node = trail[-1]
            open_ends = [other for other in feeds.get(node, ()) if other not in found and other not in trail]
            if open_ends:
                trail.append(open_ends[0])
                continue
            found[node] = 1 + max((found.get(other, -1) for other in feeds.get(node, ())), default=-1)
            trail.pop()
    return found


def boxes(feeds: Mapping[str, Sequence[str]], sizes: Mapping[str, tuple[float, float]]) -> dict[str, Box]:
    """A box for each node, right of all that it has links from.

    A source stands in the column just before the first node that it feeds.

    Args:
        feeds: The nodes that each node has links from.
        sizes: (width, height) of each node.
    """
    depth = depths(feeds)
    fed: dict[str, list[str]] = {node: [] for node in feeds}
    for node, others in feeds.items():
        for other in others:
            fed.setdefault(other, []).append(node)
    for node, others in feeds.items():
        if not others and fed[node]:
            depth[node] = max(0, min(depth[other] for other in fed[node]) - 1)
    columns: dict[int, list[str]] = {}
    for node in feeds:
        columns.setdefault(depth[node], []).append(node)
    placed: dict[str, Box] = {}
    x = 0.0
    for column in sorted(columns):
        nodes, y = sorted(columns[column], key=lambda node: _middle(feeds[node], placed)), 0.0
        for node in nodes:
            width, height = sizes[node]
            placed[node] = Box(x, y, width, height)
            y += height + GAP[1]
        x += max(sizes[node][0] for node in nodes) + GAP[0]
    return placed


def _middle(sources: Sequence[str], placed: Mapping[str, Box]) -> float:
    """The mean height of what feeds a node, by which a column is sorted; 0 for sources."""
    heights = [placed[each].y for each in sources if each in placed]
    return sum(heights) / len(heights) if heights else 0.0
