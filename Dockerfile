# The worker. `docker compose build` passes the arguments on; docker-compose.yml says what they mean.

# The Python and Debian that the tests run with.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG NODE_IMAGE=node:24-bookworm-slim

# Agents' CLIs and the Node.js that they need: neither, unless some are named.
FROM ${NODE_IMAGE} AS agents
ARG AGENT_CLIS=""
RUN mkdir -p /opt/agents/bin \
    && if [ -n "$AGENT_CLIS" ]; then \
        npm install --global --prefix /opt/agents $AGENT_CLIS && cp "$(command -v node)" /opt/agents/bin/; \
    fi

FROM ${PYTHON_IMAGE} AS packages
ARG UV_VERSION=0.13.8
RUN pip install --no-cache-dir uv==${UV_VERSION}
WORKDIR /app
COPY pyproject.toml uv.lock ./
ENV UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1
RUN uv sync --frozen --no-dev --no-cache

FROM ${PYTHON_IMAGE}
ARG PACKAGES=""
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap ca-certificates git make $PACKAGES \
    && rm -rf /var/lib/apt/lists/*
ARG WORKER_UID=1000
ARG WORKER_GID=1000
RUN groupadd --non-unique --gid "$WORKER_GID" mergewright \
    && useradd --non-unique --uid "$WORKER_UID" --gid mergewright --create-home --shell /bin/bash mergewright
COPY --from=agents /opt/agents /opt/agents
COPY --from=packages /app/.venv /app/.venv
# .dockerignore says what that is. It belongs to root: no agent can change the program that runs it.
COPY . /app
# Our own environment is not on the PATH, which gates and agents get: their `python` is not ours.
ENV PATH=/opt/agents/bin:$PATH MERGEWRIGHT_HOME=/home/mergewright/data
WORKDIR /app
USER mergewright
# A new volume takes what is here, with its owner.
RUN mkdir "$MERGEWRIGHT_HOME"
ENTRYPOINT ["/app/.venv/bin/python", "worker.py"]
