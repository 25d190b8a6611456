from hypothesis import given, settings
from hypothesis import strategies as st

from control.store import keys as module
from control.store.keys import SortedKeys

words = st.text(alphabet="ab/", max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), words), max_size=80), st.lists(words, max_size=5), words, words)
def test_sorted_keys_are_a_sorted_set(changes, start, prefix, after) -> None:
    block, module.BLOCK = module.BLOCK, 2  # small blocks, so that few keys split and empty many
    try:
        keys, truth = SortedKeys(start), set(start)
        for add, word in changes:
            (keys.add if add else keys.discard)(word)
            (truth.add if add else truth.discard)(word)
        assert len(keys) == len(truth)
        assert list(keys.under("")) == sorted(truth)
        assert list(keys.under(prefix)) == sorted(word for word in truth if word.startswith(prefix))
        if after:
            found = sorted(word for word in truth if word.startswith(prefix) and word > after)
            assert list(keys.under(prefix, after)) == found
        assert keys.count(prefix) == sum(word.startswith(prefix) for word in truth)
    finally:
        module.BLOCK = block
