"""backend.packs.recent_bytes beside a list that says the same slowly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.packs.recent_bytes import RecentBytes
from tests.contents import contents

CAPACITY = 100
KEYS = (b"a", b"ab", b"abc", b"b", b"ba")
keys = st.sampled_from(KEYS)
some, all_there_is_room_for = contents(min_size=20, max_size=40), contents(min_size=99, max_size=CAPACITY + 1)
steps = st.one_of(
    st.tuples(st.just("put"), keys, some),
    st.tuples(st.just("put"), keys, some | all_there_is_room_for),
    st.tuples(st.just("get"), keys, st.just(b"")),
    st.tuples(st.just("forget"), keys, st.just(b"")),
)


class Model:
    """The newest last."""

    def __init__(self) -> None:
        self.found: list[tuple[bytes, bytes]] = []

    def get(self, key: bytes) -> bytes | None:
        for at, (each, data) in enumerate(self.found):
            if each == key:
                self.found.append(self.found.pop(at))
                return data
        return None

    def put(self, key: bytes, data: bytes) -> None:
        self.found = [each for each in self.found if each[0] != key] + [(key, data)]
        while sum(len(data) for _, data in self.found) > CAPACITY:
            del self.found[0]

    def forget(self, start: bytes) -> None:
        self.found = [each for each in self.found if not each[0].startswith(start)]


@given(st.lists(steps, max_size=60))
def test_the_newest_are_kept_up_to_the_capacity(taken: list[tuple[str, bytes, bytes]]) -> None:
    recent, model = RecentBytes(CAPACITY), Model()
    for step, key, data in taken:
        if step == "put":
            recent.put(key, data)
            model.put(key, data)
        elif step == "forget":
            recent.forget(key)
            model.forget(key)
        else:
            assert recent.get(key) == model.get(key)
    assert [recent.get(key) for key in KEYS] == [model.get(key) for key in KEYS]
