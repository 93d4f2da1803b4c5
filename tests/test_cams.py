"Class activation maps on torchvision's and timm's networks: the right layer, the right map, or an error with a reason."

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import LayerAttribution, LayerGradCam
from timm.layers import GatedMlp
from timm.models.convmixer import ConvMixer
from timm.models.mlp_mixer import MixerBlock, MlpMixer, ResBlock, SpatialGatingBlock
from torch import nn

from roar_nb.attribution import METHODS, attribute
from roar_nb.cams import chosen_layer, describe_layer
from roar_nb.core import AttributionError, ModelError
from roar_nb.models import ResNet8

# name, pixels -> layer, layout. At 32 pixels the last stage of most networks has no positions left.
TORCHVISION = {
    ("resnet18", 224): ("layer4", "NCHW"),
    ("resnet18", 32): ("layer3", "NCHW"),
    ("resnet50", 64): ("layer4", "NCHW"),
    ("resnet50", 32): ("layer3", "NCHW"),
    ("vgg11_bn", 64): ("features", "NCHW"),
    ("vgg11_bn", 32): ("features.27", "NCHW"),
    ("densenet121", 64): ("features", "NCHW"),
    ("densenet121", 32): ("features.denseblock3", "NCHW"),
    ("mobilenet_v2", 224): ("features", "NCHW"),
    ("mobilenet_v2", 32): ("features.13", "NCHW"),
    ("mobilenet_v3_small", 64): ("features", "NCHW"),
    ("mobilenet_v3_small", 32): ("features.8", "NCHW"),
    ("efficientnet_b0", 64): ("features", "NCHW"),
    ("efficientnet_b0", 32): ("features.5", "NCHW"),
    ("convnext_tiny", 64): ("features", "NCHW"),
    ("convnext_tiny", 32): ("features.5", "NCHW"),
    ("swin_t", 64): ("features", "NHWC"),
    ("swin_t", 32): ("features.5", "NHWC"),
    ("swin_v2_t", 64): ("features", "NHWC"),
    ("shufflenet_v2_x0_5", 224): ("conv5", "NCHW"),
    ("shufflenet_v2_x0_5", 32): ("stage3", "NCHW"),
    ("squeezenet1_1", 224): ("features", "NCHW"),
    ("squeezenet1_1", 32): ("features.7", "NCHW"),
    ("regnet_x_400mf", 64): ("trunk_output", "NCHW"),
    ("regnet_x_400mf", 32): ("trunk_output.block3", "NCHW"),
    ("googlenet", 64): ("inception5b", "NCHW"),
    ("googlenet", 32): ("inception4e", "NCHW"),
}
# name, pixels, depth -> layer, layout
TIMM = [
    ("pvt_v2_b0", 64, {}, "stages", "NCHW"),
    ("poolformer_s12", 64, {}, "stages", "NCHW"),
    ("edgenext_xx_small", 64, {}, "stages", "NCHW"),
    ("mobilevit_xxs", 64, {}, "final_conv", "NCHW"),
    ("convnext_atto", 64, {}, "stages", "NCHW"),
    ("nf_regnet_b0", 64, {}, "final_act", "NCHW"),
    ("tf_efficientnet_b0", 64, {}, "bn2", "NCHW"),
    ("swin_tiny_patch4_window7_224", 224, dict(depths=(1, 1, 1, 1)), "layers", "NHWC"),
    ("sequencer2d_s", 64, dict(layers=(1, 1, 1, 1)), "stages", "NHWC"),
]
TOKENS = [  # name, depth
    ("cait_xxs24_224", dict(depth=2)),
    ("twins_pcpvt_small", dict(depths=(1, 1, 1, 1))),
    ("twins_svt_small", dict(depths=(1, 1, 1, 1))),
    ("vit_tiny_patch16_224", dict(depth=2)),
    ("levit_128s", {}),
]


def of_torchvision(name, **extra):
    torch.manual_seed(0)
    if name == "googlenet":
        extra = dict(init_weights=False, aux_logits=False)
    if name.startswith("vgg"):
        extra = dict(init_weights=False)
    return getattr(torchvision.models, name)(weights=None, **extra).eval()


def images(size, n=1, channels=3):
    width = size if isinstance(size, int) else size[1]
    height = size if isinstance(size, int) else size[0]
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", sorted({name for name, _ in TORCHVISION}))
def test_layer_of_torchvision(name):
    model = of_torchvision(name)
    for (other, size), expected in TORCHVISION.items():
        if other == name:
            assert chosen_layer(model, images(size)) == expected, size


def test_layer_of_maxvit():
    made = torchvision.models.MaxVit(
        (64, 64), 16, 4, [16, 32], [1, 1], 8, stochastic_depth_prob=0, num_classes=5
    )
    assert chosen_layer(made.eval(), images(64)) == ("blocks.1", "NCHW")


@pytest.mark.parametrize("name, size, extra, layer, layout", TIMM, ids=[t[0] for t in TIMM])
def test_layer_of_timm(name, size, extra, layer, layout):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **extra).eval()
    assert chosen_layer(model, images(size)) == (layer, layout)


def test_layer_of_convmixer():
    "Its first layer, too, cuts the image into patches, but convolutions follow"
    model = ConvMixer(dim=16, depth=2, kernel_size=3, patch_size=4, num_classes=5).eval()
    assert chosen_layer(model, images(32)) == ("blocks", "NCHW")


@pytest.mark.parametrize("name, extra", TOKENS, ids=[t[0] for t in TOKENS])
def test_tokens_are_refused(name, extra):
    model = timm.create_model(name, pretrained=False, **extra).eval()
    with pytest.raises(AttributionError, match=r"tokens \(1, \d+, \d+\).*give kwargs.layer"):
        chosen_layer(model, images(224))


BLOCKS = {  # of mixer, resmlp and gmlp
    MixerBlock: dict(mlp_ratio=(0.5, 4)),
    ResBlock: dict(mlp_ratio=4),
    SpatialGatingBlock: dict(mlp_ratio=4, mlp_layer=GatedMlp),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_mlp_mixers_are_refused(block):
    facts = dict(num_blocks=2, embed_dim=32, block_layer=block, **BLOCKS[block])
    model = MlpMixer(5, 64, patch_size=16, **facts).eval()
    with pytest.raises(AttributionError, match="'stem.proj'.* gives tokens"):
        attribute(model, images(64), method="gradcam_pp")


def test_vision_transformer_is_refused():
    model = torchvision.models.VisionTransformer(64, 16, 1, 2, 32, 64).eval()
    for method in ("gradcam", "gradcam_pp"):
        with pytest.raises(AttributionError, match="'encoder' gives tokens"):
            attribute(model, images(64), method=method)
        with pytest.raises(AttributionError, match=r"'encoder' gives \(1, 17, 32\), tokens, not"):
            attribute(model, images(64), method=method, layer="encoder")


class Pooled(nn.Module):
    "Self-attention whose average alone leaves the module"

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 1, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).movedim(1, 2)
        return self.attend(tokens, tokens, tokens)[0].mean(1)


def test_patch_embedding_alone_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), Pooled(), nn.Linear(8, 5)).eval()
    with pytest.raises(AttributionError, match="'0', cuts the image into patches"):
        chosen_layer(model, images(32))


def test_attention_that_only_pools():
    "As the head of CLIP's ResNets: what comes before has positions"
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), Pooled(), nn.Linear(8, 5)).eval()
    assert chosen_layer(model, images(32)) == ("0", "NCHW")


def small_swin():
    torch.manual_seed(0)
    widths = dict(embed_dim=24, depths=[1, 2, 1], num_heads=[2, 4, 8], window_size=[4, 4])
    return torchvision.models.SwinTransformer([4, 4], **widths, num_classes=10).eval()


@pytest.mark.parametrize("size", [64, (64, 96)])
@pytest.mark.parametrize("layer", [None, "features.3", "features.3.0"])
def test_swin_by_hand(size, layer):
    "The map of transposed features and gradients; captum's on a network that transposes them"
    model, x, c = small_swin(), images(size, 2), torch.tensor([3, 7])
    module, kept = model.get_submodule(layer or "features"), []
    handle = module.register_forward_hook(lambda m, i, out: kept.append(out))
    score = model(x).gather(1, c[:, None]).sum()
    handle.remove()
    (g,) = torch.autograd.grad(score, kept)
    a, g = (t.detach().permute(0, 3, 1, 2) for t in (kept[0], g))

    def enlarged(maps):
        return F.interpolate(maps.relu(), x.shape[2:], mode="bilinear")[:, 0]

    expected = enlarged((g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True))
    ours = attribute(model, x, c, "gradcam", layer=layer)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))
    alpha = g**2 / (2 * g**2 + g**3 * a.relu().sum((2, 3), keepdim=True))
    weights = torch.where(g > 0, alpha * g, 0).sum((2, 3), keepdim=True)
    expected = enlarged((weights * a).sum(1, keepdim=True))
    ours = attribute(model, x, c, "gradcam_pp", layer=layer)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


class Transposed(nn.Module):
    "Swin with a layer whose output is (B,C,H,W)"

    def __init__(self, swin):
        super().__init__()
        self.swin, self.second = swin, nn.Identity()

    def forward(self, x):
        y = self.second(self.swin.features(x).permute(0, 3, 1, 2))
        y = self.swin.norm(y.permute(0, 2, 3, 1)).mean((1, 2))
        return self.swin.head(y)


def test_swin_as_captum():
    swin, x, c = small_swin(), images(64, 2), torch.tensor([3, 7])
    other = Transposed(swin)
    theirs = LayerGradCam(other, other.second).attribute(x, c, relu_attributions=True)
    theirs = LayerAttribution.interpolate(theirs, (64, 64), "bilinear")[:, 0].detach()
    ours = attribute(swin, x, c, "gradcam")
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.max()))


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "convnext_tiny"])
def test_as_captum(name):
    model, x, c = of_torchvision(name), images(64, 2), torch.tensor([3, 700])
    module = model.get_submodule(chosen_layer(model, x)[0])
    for relu in (True, False):
        theirs = LayerGradCam(model, module).attribute(x, c, relu_attributions=relu)
        theirs = LayerAttribution.interpolate(theirs, (64, 64), "bilinear")[:, 0].detach()
        ours = attribute(model, x, c, "gradcam", relu=relu)
        atol = 1e-5 * float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=atol)


def test_a_layer_as_module_or_name():
    model, x = ResNet8(width=4).eval(), images(32, 2)
    for method in ("gradcam", "gradcam_pp"):
        given = attribute(model, x, method=method, layer=model.layer2)
        assert torch.equal(given, attribute(model, x, method=method, layer="layer2"))
    assert chosen_layer(model, x, model.layer3[0].relu) == ("layer3.0.relu", "NCHW")
    assert describe_layer(model, x, {}) == dict(layer="layer3", layout="NCHW")
    assert describe_layer(model, x, dict(layer="layer2")) == dict(layer="layer2", layout="NCHW")
    for method in ("gradcam", "gradcam_pp"):
        assert METHODS.find(method).describe is describe_layer
    with pytest.raises(ModelError, match="not a module of this ResNet"):
        chosen_layer(model, x, nn.Conv2d(3, 3, 3))
    with pytest.raises(ModelError, match="did you mean 'layer2'"):
        chosen_layer(model, x, "leyer2")


class Listed(nn.Module):
    def forward(self, x):
        return [x]


class First(nn.Module):
    def forward(self, x):
        return x[0].mean((2, 3))


@pytest.mark.parametrize("layer, gives", [("fc", r"\(1, 10\)"), ("avgpool", r"\(1, 16, 1, 1\)")])
def test_layers_without_positions(layer, gives):
    for method in ("gradcam", "gradcam_pp"):
        with pytest.raises(AttributionError, match=f"{gives}, not .* with several positions"):
            attribute(ResNet8(width=4), images(32), method=method, layer=layer)


def test_layers_of_other_kinds():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Listed(), First()).eval()
    with pytest.raises(AttributionError, match="'1' gives list"):
        chosen_layer(model, images(32), "1")
    model = ResNet8(width=4).eval()
    model.unused = nn.Conv2d(3, 3, 3)
    with pytest.raises(AttributionError, match="'unused' does not run"):
        chosen_layer(model, images(32), "unused")


def test_as_many_channels_as_rows():
    "A convolution inside settles the layout; a linear layer does not, and nothing is guessed"
    model = ResNet8(width=2).eval()  # ends with (B,8,8,8)
    assert chosen_layer(model, images(32)) == ("layer3", "NCHW")
    with pytest.raises(AttributionError, match=r"may be \(B,C,H,W\) or \(B,H,W,C\)"):
        chosen_layer(model, images(32), "layer3.0.relu")


@pytest.mark.parametrize("size", [(32, 48), (50, 30), (33, 65)])
def test_oblong_images(size):
    assert chosen_layer(small_swin(), images(size))[1] == "NHWC"
    assert chosen_layer(ResNet8(width=4).eval(), images(size)) == ("layer3", "NCHW")


def test_a_choice_is_remembered_for_its_shapes_only():
    model, ran = of_torchvision("resnet18"), []
    assert chosen_layer(model, images(64)) == ("layer4", "NCHW")
    handle = model.register_forward_hook(lambda *_: ran.append(1))
    assert chosen_layer(model, images(64, 3)) == ("layer4", "NCHW") and len(ran) == 1
    handle.remove()
    assert chosen_layer(model, images(32)) == ("layer3", "NCHW")
    model.layer3 = nn.Identity()
    model.layer4[0].conv1 = nn.Conv2d(128, 512, 3, 2, 1)
    model.layer4[0].downsample[0] = nn.Conv2d(128, 512, 1, 2)
    assert chosen_layer(model, images(32)) == ("layer4", "NCHW")


class Attended(nn.Module):
    "Weights positions by what a convolution makes of them"

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        return x * self.conv(torch.cat([x.mean(1, True), x.amax(1, True)], 1)).sigmoid()


def test_a_bare_convolution_takes_its_activation_along():
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    body = [nn.Conv2d(3, 8, 4, 2), Attended(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    assert chosen_layer(nn.Sequential(*body, *tail).eval(), images(32)) == ("4", "NCHW")


class Branched(nn.Module):
    "A norm that follows the last convolution in a branch only"

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x):
        y = self.conv(x)
        return self.fc((y + self.norm(y).relu()).mean((2, 3)))


def test_a_norm_in_a_branch_is_not_taken():
    assert chosen_layer(Branched().eval(), images(32)) == ("conv", "NCHW")


@pytest.mark.parametrize("method", ["gradcam", "gradcam_pp"])
def test_compiled_models(method):
    "Whose layers cannot be seen"
    compiled = torch.compile(ResNet8(width=4).eval(), backend="aot_eager")
    for layer in (None, "_orig_mod.layer3"):
        with pytest.raises(AttributionError, match="give the model that was compiled"):
            attribute(compiled, images(32, 2), method=method, layer=layer)


def test_nothing_is_left_behind():
    model, x = ResNet8(width=4), images(32, 2)
    for layer in (None, "layer2", "fc"):
        for method in ("gradcam", "gradcam_pp"):
            try:
                attribute(model, x, method=method, layer=layer)
            except AttributionError:
                assert layer == "fc"
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
