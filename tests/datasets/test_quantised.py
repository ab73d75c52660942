import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nsbench.datasets.quantised import quantised, read, restored, write
from nsbench.errors import Misuse

vectors = arrays(
    np.float16, st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5)), elements=st.floats(-99, 99, width=16)
)


@given(vectors)
def test_no_number_is_off_by_more_than_half_a_step_of_its_own_vector(x: np.ndarray) -> None:
    x = x.astype(np.float32)
    values, scales = quantised(x)
    assert (values.dtype, scales.shape) == (np.int8, x.shape[:-1])
    step = np.abs(x).max(-1, keepdims=True) / 127
    assert (np.abs(restored(values, scales) - x) <= step / 2 * 1.0001).all()  # float32 rounds the scale


def test_what_is_zero_stays_so_and_the_largest_number_is_kept() -> None:
    x = np.array([[0, 0, 0], [-2.54, 1.0, 0]], np.float32)
    values, scales = quantised(x)
    assert values.tolist() == [[0, 0, 0], [-127, 50, 0]]
    assert restored(values, scales)[1, 0] == pytest.approx(-2.54)


class TestFile:
    RECIPE = {"modality": "captions", "version": 1}

    def test_comes_back_without_what_the_mask_hides(self, tmp_path) -> None:
        x = np.ones((3, 2, 2), np.float32)
        write(tmp_path / "deep" / "x.npz", x, np.array([True, False, True]), self.RECIPE)
        back, mask = read(tmp_path / "deep" / "x.npz", self.RECIPE, "go")
        assert mask.tolist() == [True, False, True]
        assert back[mask] == pytest.approx(1)
        assert not back[1].any()

    def test_of_another_recipe_or_damaged_is_refused(self, tmp_path) -> None:
        file = tmp_path / "x.npz"
        write(file, np.ones((3, 2), np.float32), np.ones(3, bool), self.RECIPE)
        with pytest.raises(Misuse, match=r"x\.npz was made from other files or by another version; fetch it again"):
            read(file, {**self.RECIPE, "version": 2}, "fetch it again")
        whole = file.read_bytes()
        np.savez(file, values=np.ones((3, 2)), scales=np.ones(3), mask=np.ones(3), recipe="{}")
        spoilt = [whole[:-30], b"", file.read_bytes()]
        np.savez(file, values=np.array([print], dtype=object))
        for content in [*spoilt, file.read_bytes()]:
            file.write_bytes(content)
            with pytest.raises(Misuse, match=r"x\.npz is damaged; fetch it again"):
                read(file, self.RECIPE, "fetch it again")
