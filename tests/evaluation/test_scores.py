"""The highest score, also of boxes that are not kept."""

import pytest
import torch
from test_test_time import SIDE, config, detector, picture

from lesa_d2.evaluation import highest_score


@pytest.mark.parametrize("name", ["quickstart_lesa", "quickstart_cascade", "quickstart_htc"])
def test_it_is_that_of_the_best_detection(name):
    model = detector(config(name))
    predictors = [m for m in model.modules() if hasattr(m, "test_score_thresh")]
    for predictor in predictors:
        predictor.test_score_thresh = 0.0
    inputs = [picture(SIDE, SIDE)]
    with torch.no_grad(), highest_score(model) as highest:
        assert highest.value is None
        kept = model(inputs)[0]["instances"].scores.max()
        assert highest.over_processes() == pytest.approx(float(kept))
        for predictor in predictors:
            predictor.test_score_thresh = 1.0
        highest.value = None
        assert len(model(inputs)[0]["instances"]) == 0
        assert highest.value == pytest.approx(float(kept))
    assert all("predict_probs" not in vars(m) for m in model.modules())
