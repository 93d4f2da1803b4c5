# syntax=docker/dockerfile:1
# docker build -t roar_nb .
# docker run --rm --gpus all -v "$PWD:/workspace" roar_nb run --config configs/cifar10_resnet8.yml
# With Jupyter: docker build --build-arg EXTRAS=tensorboard,timm,superpixels,jupyter -t roar_nb .
FROM python:3.12-slim

ARG EXTRAS=tensorboard,timm,superpixels
ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    MPLBACKEND=Agg

# PyTorch's wheels bring the CUDA runtime: the host needs the driver and the NVIDIA container toolkit only.
WORKDIR /opt/roar_nb
COPY pyproject.toml setup.py settings.ini README.md LICENSE ./
COPY roar_nb roar_nb
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip pip install ".[${EXTRAS}]"

RUN useradd --create-home --uid 1000 roar \
    && mkdir /workspace \
    && chown roar:roar /workspace
USER 1000
WORKDIR /workspace

ENTRYPOINT ["roar-nb"]
CMD ["run"]
