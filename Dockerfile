# synthgen with its embedded models: for compose.yaml, or for any of its commands.
FROM python:3.12-slim-bookworm

# procps: synthgen knows the processes that it started by `ps`.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends procps \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /synthgen
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY synthgen synthgen
RUN pip install --no-cache-dir --editable .
COPY flows flows
COPY specs specs

# Volumes that are mounted here belong to the user, too.
RUN useradd --create-home --uid 1000 synthgen \
    && mkdir outputs cache \
    && chown synthgen outputs cache
USER 1000
ENV SYNTHGEN_HOME=/synthgen/cache HF_HOME=/synthgen/cache/huggingface

CMD ["synthgen", "--help"]
