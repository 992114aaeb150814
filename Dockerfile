# An exported detector as a service, without torch:
#   docker build -t detector .
#   docker run -p 8000:8000 -e VAE_LIGHTNING_TOKEN=… -v "$PWD/detector.onnx:/detector.onnx:ro" detector
FROM python:3.12-slim
COPY . /source
# what the server imports, and not what trains: the package's own dependencies are left out
RUN pip install --no-cache-dir numpy pillow pyyaml onnxruntime pyarrow fastapi uvicorn python-multipart prometheus-client \
    && pip install --no-cache-dir --no-deps /source && rm -rf /source
USER nobody
EXPOSE 8000
ENTRYPOINT ["python", "-m", "vae_lightning", "serve", "--host", "0.0.0.0", "--detector"]
CMD ["/detector.onnx"]
