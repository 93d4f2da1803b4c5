"Relevance maps computed by zennit, an implementation independent of ours, for the tests of LRP."

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import MobileNetV2
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock
from zennit.attribution import Gradient
from zennit.canonizers import AttributeCanonizer, SequentialMergeBatchNorm
from zennit.composites import LayerMapComposite
from zennit.core import Stabilizer
from zennit.layer import Sum
from zennit.rules import Epsilon, Gamma, Norm, Pass, ZPlus
from zennit.types import Activation, AvgPool, Convolution

from roar_nb.models import BasicBlock as OurBlock

# zennit's rules belong to modules: what these networks add or pool by functions becomes a module


def _torchvision_block(self, x):
    out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
    short = x if self.downsample is None else self.downsample(x)
    return self.relu(self.zennit_sum(torch.stack([out, short], -1)))


def _our_block(self, x):
    out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
    return self.relu(self.zennit_sum(torch.stack([out, self.shortcut(x)], -1)))


def _inverted_residual(self, x):
    if not self.use_res_connect:
        return self.conv(x)
    return self.zennit_sum(torch.stack([x, self.conv(x)], -1))


def _mobilenet(self, x):
    return self.classifier(self.zennit_pool(self.features(x)).flatten(1))


FORWARDS = {
    BasicBlock: _torchvision_block,
    OurBlock: _our_block,
    InvertedResidual: _inverted_residual,
    MobileNetV2: _mobilenet,
}


def _attributes(name, module):
    "What zennit sets on a module while it explains"
    forward = FORWARDS.get(type(module))
    if forward is None:
        return None
    extra = dict(zennit_sum=Sum(), zennit_pool=nn.AdaptiveAvgPool2d(1))
    return dict(forward=forward.__get__(module), **extra)


def _composite(rule, eps, gamma):
    "The layers' rules, as those of our `rule`"
    stabilizer = Stabilizer(eps, norm_scale=True)
    epsilon, gamma = Epsilon(stabilizer), Gamma(gamma, stabilizer=stabilizer)
    conv, dense = dict(
        epsilon=(epsilon, epsilon),
        gamma=(gamma, gamma),
        epsilon_plus=(ZPlus(stabilizer=stabilizer), epsilon),
    )[rule]
    norm = Norm(1e-12)
    layers = [(Activation, Pass()), (Sum, norm), (AvgPool, norm)]
    return LayerMapComposite(
        [*layers, (Convolution, conv), (nn.Linear, dense)],
        canonizers=[SequentialMergeBatchNorm(), AttributeCanonizer(_attributes)],
    )


def zennit_lrp(model, images, labels, rule, eps=1e-3, gamma=0.25):
    "(B,C,H,W): the relevance of the logits of `labels`"
    with Gradient(model=model, composite=_composite(rule, eps, gamma)) as attributor:
        logits = model(images).detach()
        start = F.one_hot(labels, logits.shape[1]) * logits
        return attributor(images.clone().requires_grad_(), start)[1].detach()
