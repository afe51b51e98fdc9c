# sigmafield as a server on the CPU; docs/deploy.md says how to run it.
# Build: docker build -t sigmafield .
#   for an NVIDIA GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
# Serve, with jobs in a volume and a token:
#   docker run --rm -p 127.0.0.1:8188:8188 -v sigmafield-jobs:/jobs -e SIGMAFIELD_TOKEN="$(openssl rand -hex 16)" sigmafield
# The demo into ./out (make the folder first), and any other command:
#   docker run --rm --user "$(id -u)" -v "$PWD/out:/work/out" sigmafield .ci/demo
#   docker run --rm --user "$(id -u)" -v "$PWD/out:/work/out" sigmafield sigmafield sample "a red heart" -o out/heart.png
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# the volume gets the owner that its folder has here
RUN useradd --create-home --uid 1000 sigmafield \
    && mkdir -p /work/out /jobs /models && chown -R sigmafield /work /jobs /models
WORKDIR /work

# what changes seldom comes first: dependencies are installed again only when a pin changes
COPY constraints.txt ./
RUN pip install --constraint constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch

COPY pyproject.toml README.md CHANGELOG.md LICENSE NOTICE ./
COPY src src
RUN pip install --constraint constraints.txt --extra-index-url "$TORCH_INDEX" ".[server,comfyui,diffusers,gguf]"
COPY --chown=sigmafield examples examples
COPY .ci/demo .ci/demo

USER sigmafield
VOLUME /jobs
EXPOSE 8188
# /readyz needs no token; while the first model is loaded the server does not answer
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s CMD \
    ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8188/readyz', timeout=4)"]
# others can reach the address, so that the server does not start without a token
CMD ["sigmafield", "serve", "--host", "0.0.0.0", "--folder", "/jobs", "--models", "/models"]
