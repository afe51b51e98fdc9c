"""The order of nodes is that of the rule, in graphs that grow while they run; work grows with the links."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sigmafield.comfyui.order import Order


def by_the_rule(blockers, early, held):
    """Of the nodes that can run: an early one, one that an early one waits for, one two before it, else the first."""
    ready = [name for name, waits in blockers.items() if not waits and name not in held]
    first = {name for name in blockers if name in early}
    before = {source for name in first for source in blockers[name]}
    twice = {source for name in before for source in blockers.get(name, ())}
    for group in (first, before, twice, ready):
        if found := [name for name in ready if name in group]:
            return found[0]
    return None


@st.composite
def graphs(draw):
    """Sources of each node, which have smaller numbers; early nodes; nodes that ask for another one when they run."""
    n = draw(st.integers(1, 12))
    sources = {str(k): [str(each) for each in draw(st.sets(st.integers(0, k - 1), max_size=3))] if k else []
               for k in range(n)}  # fmt: skip
    names = sorted(sources)
    early = draw(st.sets(st.sampled_from(names)))
    lazy = {name: str(draw(st.integers(0, int(name) - 1))) for name in draw(st.sets(st.sampled_from(names)))
            if int(name)}  # fmt: skip
    return sources, early, lazy, draw(st.sets(st.sampled_from(names)))


@given(graphs())
@settings(max_examples=80, deadline=None)
def test_nodes_run_in_the_order_of_the_rule(graph):
    sources, early, lazy, parked = graph
    finished = []
    order = Order(lambda name: [each for each in sources[name] if each not in finished], early.__contains__)
    for name in reversed(sources):
        order.add([name])
    while order.blockers:
        name = order.next()
        assert name == by_the_rule(order.blockers, early, order.held)
        if name is None:
            for each in list(order.held):
                order.release(each)
        elif (wanted := lazy.pop(name, None)) is not None and wanted not in finished:
            order.block(name, [wanted])
        elif name in parked:
            parked.discard(name)
            order.hold(name)
        else:
            finished.append(name)
            order.done(name)
    assert sorted(finished) == sorted(sources)
    assert all(finished.index(each) < finished.index(name) for name in sources for each in sources[name])


def test_a_chain_asks_about_each_node_once():
    n, asked = 500, []
    order = Order(lambda name: [str(int(name) - 1)] if name != "0" else [], lambda name: bool(asked.append(name)))
    order.add([str(n - 1)])
    ran = []
    while (name := order.next()) is not None:
        ran.append(name)
        order.done(name)
    assert ran == [str(k) for k in range(n)] and sorted(asked) == sorted(ran)
