# One image for every process; the command says which: docker run wallet api
#
# The base is named by its tag. To build on exactly one base, pin it by digest in both FROM lines; this prints the digest:
#   docker buildx imagetools inspect python:3.11-slim --format '{{.Manifest.Digest}}'
FROM python:3.11-slim AS packages
COPY requirements-image.lock /
# The lock is complete: --no-deps keeps out what it leaves out on purpose.
RUN python -m venv /packages \
    && /packages/bin/pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
       --requirement /requirements-image.lock

FROM python:3.11-slim
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin wallet \
    && install --directory --owner=wallet --group=wallet /var/log/wallet
COPY --from=packages /packages /packages
COPY src /srv/wallet
# PYTHONSAFEPATH keeps the working directory off Python's path. The code is compiled here, as it is not writable later.
ENV PATH=/packages/bin:$PATH \
    PYTHONPATH=/srv/wallet \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LOG_DIR=/var/log/wallet
RUN python -m compileall -q /srv/wallet
WORKDIR /srv/wallet
USER 10001:10001
EXPOSE 3000
ENTRYPOINT ["python", "-m", "wallet"]
CMD ["--help"]
