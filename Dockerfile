# syntax=docker/dockerfile:1
# The image of a worker: Python, TensorFlow and the package `trainer`; nothing of what runs on the user's machine.
#
#     docker build -t trainer .                            # cpu
#     docker build -t trainer --build-arg VARIANT=gpu .    # or tpu
#
# A task of your own goes on top, into the working directory:
#
#     FROM trainer
#     COPY task.py .
ARG VARIANT=cpu

FROM python:3.11-slim AS build
ARG VARIANT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/venv
COPY docker/requirements-${VARIANT}.txt /tmp/requirements.txt
# --no-deps: the list is complete, and leaves out what TensorFlow asks for but never imports.
# Headers and tests are of no use at run time. Byte code is kept: with a read-only root nothing could write it later.
RUN /opt/venv/bin/pip install --no-deps -r /tmp/requirements.txt \
    && site=$(/opt/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
    && rm -rf "$site"/pip "$site"/pip-* "$site"/tensorflow/include \
    && find "$site" -type d -name tests -not -path '*/tensorflow/*' -not -path '*/keras/*' -prune -exec rm -rf {} +
COPY trainer /tmp/trainer
RUN site=$(/opt/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
    && cp -r /tmp/trainer "$site"/trainer \
    && /opt/venv/bin/python -m compileall -q "$site"/trainer

FROM python:3.11-slim
RUN useradd --uid 1000 --user-group --create-home --home-dir /home/trainer --shell /usr/sbin/nologin trainer \
    && mkdir /app && chown trainer:trainer /app
# The version in pyproject.toml, by which `orch check` tells an image of another one.
LABEL orch.trainer=0.1.0
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/trainer \
    USER=trainer \
    PYTHONUNBUFFERED=1 \
    TF_CPP_MIN_LOG_LEVEL=1
WORKDIR /app
USER 1000:1000
# The agent is PID 1: it reaps orphans, passes signals on, and starts and restarts the training process.
# -P: a folder of the user's that is called trainer, too, must not stand before ours.
ENTRYPOINT ["python", "-P", "-m", "trainer.agent"]
