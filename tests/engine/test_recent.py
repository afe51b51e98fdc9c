"""Results that are kept by the identity of what they were made from."""

from concurrent.futures import ThreadPoolExecutor

from sigmafield.core.recent import Recent


def test_equal_values_are_not_the_same_value():
    """Identity decides: an equal list is another one, and a key given with the values is compared."""
    known, one, other = Recent(), [1], [1]
    first = known((one,), 3, lambda: ["made"])
    assert known((one,), 3, lambda: ["again"]) is first
    assert known((other,), 3, lambda: ["again"]) == ["again"]
    assert known((one,), 4, lambda: ["again"]) == ["again"]


def test_an_identity_is_never_reused():
    """The values are kept, so that no other object can have the identity of one that is known."""
    known = Recent(most=1000)
    for k in range(200):
        assert known(([k],), None, lambda k=k: k) == k


def test_it_forgets_beyond_its_size():
    known, values = Recent(most=2), [[k] for k in range(3)]
    for v in values:
        known((v,), None, lambda v=v: v[0])
    assert known((values[0],), None, lambda: "again") == "again"


def test_threads_get_whole_results():
    known, values = Recent(most=4), [[k] for k in range(16)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: known((values[k % 16],), None, lambda: (k % 16,) * 100), range(2000)))
    assert all(f == (k % 16,) * 100 for k, f in enumerate(found))
