# Apache Airflow from PyPI: exactly dags/requirements.txt and dags/constraints.txt, which lie in the build context
# together with airflow-heartbeat. One image is api-server, scheduler, dag-processor, triggerer, worker and the shell of
# KubernetesPodOperator's XCom sidecar: the command says which. DAGs are mounted, not built in.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update \
    # tini is process 1: it passes signals on and reaps what tasks leave behind; the XCom sidecar is ended with pgrep
    && apt-get install -y --no-install-recommends python3 python3-venv tini procps \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/* /usr/share/doc/* /usr/share/man/* \
    # group 0, like the official image: volumes of platforms that pick the user are writable by group
    && useradd --uid 50000 --gid 0 --home-dir /opt/airflow --create-home --shell /bin/bash airflow \
    && mkdir -p /opt/airflow/dags /opt/airflow/logs && chown -R airflow:0 /opt/airflow && chmod -R g=u /opt/airflow
COPY requirements.txt constraints.txt /tmp/
RUN python3 -m venv /opt/venv \
    && python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --no-cache-dir --disable-pip-version-check --quiet uv==0.13.9 \
    && /tmp/uv/bin/uv pip install --no-cache --system-certs --compile-bytecode --quiet --python /opt/venv/bin/python \
        --requirements /tmp/requirements.txt --constraints /tmp/constraints.txt \
    && /opt/venv/bin/pip check \
    && rm -r /tmp/uv \
    && rm /tmp/requirements.txt /tmp/constraints.txt
COPY airflow-heartbeat /usr/local/bin/airflow-heartbeat
# PYTHONPATH: the triggerer imports the triggers of dags/lakehouse_airflow, and no DAG folder is on its path by itself
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/airflow/dags \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /opt/airflow
USER 50000:0
EXPOSE 8080
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["airflow", "version"]
