# One image for every service; see docker-compose.yml. No root, no compiler: everything comes as wheels.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE beat_schedule.py ./
COPY models models
COPY tasks tasks
COPY worker worker
COPY local_org local_org
RUN python -m venv /opt/sfsync && /opt/sfsync/bin/pip install --no-cache-dir -c constraints.txt '.[org]'

FROM python:3.13-slim
COPY --from=build /opt/sfsync /opt/sfsync
RUN useradd --system --create-home --home-dir /var/lib/sfsync sfsync
USER sfsync
WORKDIR /var/lib/sfsync
ENV PATH=/opt/sfsync/bin:$PATH PYTHONUNBUFFERED=1 SFSYNC_LOG_JSON=true SFSYNC_DATA_FOLDER=/var/lib/sfsync/data
ENTRYPOINT ["sfsync"]
CMD ["--help"]
