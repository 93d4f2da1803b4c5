"""A template of your own attribution method.

A method is a function of the model, an image and a class, and returns a map: the larger a value,
the more relevant the pixel. Name it in the configuration by its dotted path, here
`own_method.blurred_gradient`; the folder of the configuration is searched for it. Arguments after
the third are yours; the configuration sets them under `kwargs`.

A parameter named `index`, `seed`, `mean`, `std`, `relevance`, `references` or `rows` is filled in
for you: the positions of the images in their dataset, a random seed, the normalisation, the ground
truth, other images of the dataset, and how many images may go through the model at once;
`context` is all of them. What is not there everywhere, such as the ground truth, should have a
default: `relevance=None`.
"""

import torch
from torchvision.transforms.v2.functional import gaussian_blur


def blurred_gradient(model, image, label, width=5):
    """The strength of the gradient, smoothed.

    model: in eval mode; returns logits (1, classes)
    image: (1, C, H, W), normalised, on the model's device
    label: int, the class to explain
    width: an odd number of pixels, the side of the window that is averaged over
    returns: (H, W), (1, H, W) or (C, H, W), a tensor or a numpy array
    """
    image = image.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(image)[0, label], image)
    strength = gradient.abs().amax(1, keepdim=True)
    return gaussian_blur(strength, [width, width])[0]


def blurred_gradients(model, images, labels, width=5):
    """The same for a batch, many times faster on a GPU; the configuration says `batched: true`.

    images: (B, C, H, W)
    labels: (B,) int64
    returns: (B, H, W), (B, 1, H, W) or (B, C, H, W)
    """
    images = images.detach().clone().requires_grad_()
    scores = model(images).gather(1, labels[:, None]).sum()
    (gradient,) = torch.autograd.grad(scores, images)
    strength = gradient.abs().amax(1, keepdim=True)
    return gaussian_blur(strength, [width, width])
