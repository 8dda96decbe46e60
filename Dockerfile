# docker build -t abatch . && docker run --rm -e ANTHROPIC_API_KEY -v "$PWD:/work" --user "$(id -u):$(id -g)" abatch run requests.jsonl --to results.jsonl
# The journal (.abatch) and the results stand in /work: mount a folder there, or they are lost with the container.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY abatch abatch
COPY backends backends
RUN python -m pip wheel --no-cache-dir --disable-pip-version-check --wheel-dir /wheels '.[all]'

FROM python:3.13-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --disable-pip-version-check --no-index --find-links /wheels 'abatch[all]' \
    && useradd --create-home --uid 1000 abatch \
    && install --directory --owner abatch --group abatch --mode 0700 /work
USER abatch
WORKDIR /work
ENTRYPOINT ["abatch"]
