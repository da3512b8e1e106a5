# A server for two models. On a CPU:
#   docker build -t glimp .
#   docker run -p 8000:8000 -v /models:/models glimp --small /models/small.gguf --large /models/large.gguf
# On a GPU, where nvcc builds the loop that runs on it:
#   docker build -t glimp --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 \
#     --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --gpus all -p 8000:8000 -v /models:/models glimp --small /models/small --large /models/large
ARG BASE=debian:trixie-slim
FROM ${BASE}

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 glimp

WORKDIR /app
RUN python3 -m venv .venv && .venv/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.9"
COPY . /app
RUN .venv/bin/pip install --no-cache-dir '.[serve]'

USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=10m CMD ["/app/.venv/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/app/.venv/bin/glimp", "serve", "--host", "0.0.0.0"]
