"In bfloat16 every method gives nearly the map that it gives in float32, whatever the batch."

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from roar_nb.attribution import METHODS, attribute
from roar_nb.models import build_model

QUICK = dict(
    integrated_gradients=dict(n_steps=8),
    neuron_intgrad=dict(n_steps=2),
    pathway_grad=dict(contribution="mct"),
    gradient_shap=dict(n_samples=6),
    rise=dict(n_masks=600),
    occlusion=dict(window=8),
)


def pooled():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1352, 10),
    )


def resnet8():
    return build_model("roar_nb.models.ResNet8", dict(width=8), 10, seed=0)


@pytest.mark.parametrize("network", [resnet8, pooled])
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"oracle"}))
def test_bfloat16_keeps_the_order(network, method):
    "Of maps of an untrained network, many values of which are next to 0"
    model, quick = network().eval(), QUICK.get(method, {})
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for rows in (2, 64):
        fine, rough = (
            attribute(model, x, [1, 2], method, batch_size=rows, precision=p, **quick)
            for p in ("fp32", "bf16")
        )
        for a, b in zip(fine, rough):
            if a.any() or b.any():  # Grad-CAM finds nothing where nothing speaks for the class
                assert spearmanr(a.flatten(), b.flatten()).statistic > 0.85
