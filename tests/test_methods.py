"Methods agree with what can be computed by hand, of a linear and of a tiny network."

import pytest
import scipy.ndimage
import torch
from fastcore.test import test_close as close
from fastcore.test import test_eq as same
from torch import nn

from roar_nb.attribution import attribute
from roar_nb.core import AttributionError, ConfigError
from roar_nb.methods import grid_cells
from roar_nb.models import ResNet8
from roar_nb.randomness import generator, seeded

with seeded(0):
    LINEAR = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval()
    TINY = nn.Sequential(nn.Flatten(), nn.Linear(48, 30), nn.ReLU(), nn.Linear(30, 5)).eval()
    CNN = ResNet8(width=4).eval()
SMALL = torch.randn(6, 3, 4, 4, generator=generator(1))
LARGE = torch.randn(4, 3, 32, 32, generator=generator(2))
Y = torch.tensor([0, 1, 2, 3, 4, 0])
WEIGHTS = LINEAR[1].weight[Y].detach().view_as(SMALL)


def logit(images, model=TINY):
    with torch.no_grad():
        return model(images).gather(1, Y[:, None])[:, 0]


def test_sobel_is_scipys():
    grey = LARGE[0].mean(0).numpy()
    slopes = [scipy.ndimage.sobel(grey, axis, mode="nearest") for axis in (0, 1)]
    found = attribute(CNN, LARGE, method="sobel")[0]
    close(found, sum(s**2 for s in slopes) ** 0.5, eps=1e-5)


def test_random_does_not_depend_on_the_batch():
    maps = attribute(CNN, LARGE, method="random")
    same(attribute(CNN, LARGE, method="random", batch_size=3), maps)


def test_the_oracle_needs_ground_truth():
    with pytest.raises(AttributionError, match="no ground-truth relevance"):
        attribute(CNN, LARGE, method="oracle")


def test_the_gradient_of_a_linear_model_is_its_weight():
    close(attribute(LINEAR, SMALL, Y, "gradient", reduction="none"), WEIGHTS)
    close(attribute(LINEAR, SMALL, Y, "gradient"), WEIGHTS.abs().amax(1))


def test_input_x_gradient_of_a_linear_model_adds_up():
    logits = logit(SMALL, LINEAR) - LINEAR[1].bias[Y].detach()
    close(attribute(LINEAR, SMALL, Y, "input_x_gradient").sum((1, 2)), logits, eps=1e-5)


def test_gradient_shap_of_a_linear_model():
    refs = torch.randn(1, 3, 4, 4, generator=generator(5))
    options = dict(references=refs, n_samples=5, reduction="none")
    close(attribute(LINEAR, SMALL, Y, "gradient_shap", **options), (SMALL - refs) * WEIGHTS, 1e-5)


def test_gradient_shap_adds_up_on_average():
    refs = torch.randn(3, 3, 4, 4, generator=generator(5))
    maps = attribute(TINY, SMALL, Y, "gradient_shap", references=refs, n_samples=4000)
    gap = logit(SMALL) - torch.stack([logit(r.expand(6, 3, 4, 4)) for r in refs]).mean(0)
    close(maps.sum((1, 2)), gap, eps=0.05)


def test_occlusion_is_the_mean_fall_over_the_windows_of_a_pixel():
    total, count = torch.zeros(6, 4, 4), torch.zeros(4, 4)
    for r, c in torch.cartesian_prod(torch.arange(3), torch.arange(3)).tolist():
        filled = SMALL.clone()
        filled[:, :, r : r + 2, c : c + 2] = 0
        total[:, r : r + 2, c : c + 2] += (logit(SMALL) - logit(filled))[:, None, None]
        count[r : r + 2, c : c + 2] += 1
    close(attribute(TINY, SMALL, Y, "occlusion", window=2, stride=1), total / count, eps=1e-5)


def test_occlusion_leaves_no_pixel_out():
    with pytest.raises(ConfigError, match="leaves pixels out"):
        attribute(TINY, SMALL, Y, "occlusion", window=2, stride=3)


def test_feature_ablation_is_the_fall_of_a_cell():
    same(grid_cells(SMALL, 2)[0, 0], torch.tensor([[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2))
    filled = SMALL.clone()
    filled[:, :, :2, 2:] = 0
    fall = logit(SMALL) - logit(filled)
    close(attribute(TINY, SMALL, Y, "feature_ablation", cells=2)[:, 1, 2], fall, eps=1e-5)
