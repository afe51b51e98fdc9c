# sigmafield on the CPU. Build: docker build -t sigmafield .
# The demo into ./out (make the folder first):
#   docker run --rm --user "$(id -u)" -v "$PWD/out:/work/out" sigmafield
# Any command:
#   docker run --rm --user "$(id -u)" -v "$PWD/out:/work/out" sigmafield sigmafield sample "a red heart" -o out/heart.png
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN useradd --create-home --uid 1000 sigmafield && mkdir -p /work/out && chown -R sigmafield /work
WORKDIR /work

# what changes seldom comes first: dependencies are installed again only when a pin changes
COPY constraints.txt ./
RUN pip install --constraint constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch

COPY pyproject.toml README.md CHANGELOG.md LICENSE NOTICE ./
COPY src src
RUN pip install --constraint constraints.txt --extra-index-url "$TORCH_INDEX" .
COPY --chown=sigmafield examples examples
COPY .ci/demo .ci/demo

USER sigmafield
CMD [".ci/demo"]
