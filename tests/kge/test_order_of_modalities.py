"""A fusion is the same in whatever order the dataset lists its modalities."""

import pytest
import torch

from nsbench.kge.fusions.two_view import TwoView
from nsbench.testing.rules import toy
from tests.kge.fusions import made, with_features


@pytest.mark.parametrize("names", [("text", "audio"), ("audio", "text")])
def test_the_second_view_is_the_first_by_name(names):
    features = {"audio": torch.ones(40, 3), "text": torch.ones(40, 4)}
    everyone = torch.ones(40, dtype=torch.bool)
    data = with_features({name: features[name] for name in names}, dict.fromkeys(names, everyone))
    fusion = made(TwoView, data)
    assert list(fusion.views(torch.zeros(toy().num_entities, 5))) == ["structure", "audio"]
    assert fusion.phi.shape == (40, 3)
