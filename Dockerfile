# A server for the models of a folder:
#   docker build -t tabwright .
#   docker run --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -v "$PWD/models:/models:ro" \
#     tabwright /models/churn.safetensors
FROM python:3.12-slim AS build
# The kernels of training are built with the package; without a C compiler it trains by PyTorch.
WORKDIR /src
COPY . .
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --constraint constraints.txt ".[serve]"

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home tabwright
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
# The process is the first of its container, so that SIGTERM reaches it and it drains.
ENTRYPOINT ["tabwright", "serve", "--host", "0.0.0.0", "--port", "8000"]
