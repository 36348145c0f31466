# Our image: exporter, API and command. Built for x86-64 and ARM64 alike; every dependency comes from the lock file.
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /opt/lobservatory
RUN python -m venv /opt/venv
COPY requirements.lock ./
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY . .
# Editable: dashboards, alerts and provisioning stand beside the code, as in a checkout.
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation -e . \
 && /opt/venv/bin/python -m compileall -q api cli exporter lobservatory openclaw store

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="Lobservatory" org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LOBS_DATA_DIR=/var/lib/lobservatory
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/lobservatory /opt/lobservatory
# The container runs as the owner of the state directory, whoever that is. A named volume takes this mode over.
RUN mkdir -m 1777 /var/lib/lobservatory
WORKDIR /var/lib/lobservatory
USER 65532:65532
ENTRYPOINT ["lobservatory"]
CMD ["--help"]
