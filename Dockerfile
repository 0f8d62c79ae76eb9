# mammo-sae with its workflow, as `docker build -t mammo-sae .` makes it. See docs/install.md.
# Versions are those of envs/constraints.txt. tests/test_containers.py compares the steps with the
# Makefile.
FROM python:3.11-slim

WORKDIR /opt/mammo-sae
COPY Snakefile pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY workflow workflow
COPY src src
COPY config config
COPY profiles profiles
COPY envs envs

RUN python -m pip install --no-cache-dir --quiet --disable-pip-version-check torch==$(sed -n 's/^torch==//p' envs/constraints.txt)
RUN python -m pip install --no-cache-dir --quiet --disable-pip-version-check --constraint envs/constraints.txt .

WORKDIR /work
ENTRYPOINT ["mammo-sae"]
CMD ["--help"]
