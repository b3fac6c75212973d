# The images of kfp-fti: `make images`. docs/images.md says what is in each and why.
# predictor < steps < train: each adds a layer of packages to the one before, so that a node holds what they share once.
ARG BASE=python:3.11-slim
ARG SBOM_OF=predictor

# What builds: uv, setuptools, the maker of SBOMs. No part of any image.
FROM ${BASE} AS tools
RUN --mount=type=bind,source=images,target=/images \
    --mount=type=secret,id=ca --mount=type=secret,id=pip,target=/etc/pip.conf \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && python3 -m venv /tools \
    && /tools/bin/pip install --quiet --no-cache-dir --disable-pip-version-check \
       --find-links /images/wheels/cpu --require-hashes --requirement /images/tools.txt

FROM tools AS library
WORKDIR /src
COPY setup.py pyproject.toml README.md LICENSE ./
COPY components components
COPY pipelines pipelines
COPY feature_repo feature_repo
RUN /tools/bin/uv pip install --quiet --offline --no-cache --no-deps --no-build-isolation --compile-bytecode \
    --python /tools/bin/python3 --target /library . && rm -rf /library/bin

# Python without pip. HOME and all scratch are /tmp, the one folder that has to be writable.
FROM ${BASE} AS base
RUN rm -rf /usr/share/python-wheels /usr/lib/python3*/ensurepip /usr/local/lib/python3*/ensurepip \
       /usr/local/lib/python3*/site-packages/* /usr/local/bin/pip* \
    && python3 -m venv --without-pip /opt/fti \
    && echo /opt/library > "$(echo /opt/fti/lib/python3*/site-packages)/library.pth" \
    && echo 'fti:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'fti:x:65532:' >> /etc/group
ENV PATH=/opt/fti/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
LABEL org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /tmp

# The packages of each image, as locked.
FROM base AS predictor-packages
RUN --mount=type=bind,source=images,target=/images --mount=type=bind,from=tools,source=/tools,target=/tools \
    --mount=type=secret,id=ca --mount=type=secret,id=uv --mount=type=cache,target=/uv-cache \
    sh /images/install.sh predictor

FROM predictor-packages AS steps-packages
RUN --mount=type=bind,source=images,target=/images --mount=type=bind,from=tools,source=/tools,target=/tools \
    --mount=type=secret,id=ca --mount=type=secret,id=uv --mount=type=cache,target=/uv-cache \
    sh /images/install.sh steps

FROM steps-packages AS train-packages
# Where uv finds torch for CPUs: PyTorch's own index. Empty: in images/wheels/cpu, or an index of yours.
ARG UV_TORCH_BACKEND=cpu
RUN --mount=type=bind,source=images,target=/images --mount=type=bind,from=tools,source=/tools,target=/tools \
    --mount=type=secret,id=ca --mount=type=secret,id=uv --mount=type=cache,target=/uv-cache \
    sh /images/install.sh train

FROM predictor-packages AS predictor-full-packages
ARG UV_TORCH_BACKEND=cpu
RUN --mount=type=bind,source=images,target=/images --mount=type=bind,from=tools,source=/tools,target=/tools \
    --mount=type=secret,id=ca --mount=type=secret,id=uv --mount=type=cache,target=/uv-cache \
    sh /images/install.sh predictor-full

FROM base AS predictor-gpu-packages
RUN --mount=type=bind,source=images,target=/images --mount=type=bind,from=tools,source=/tools,target=/tools \
    --mount=type=secret,id=ca --mount=type=secret,id=uv --mount=type=cache,target=/uv-cache \
    sh /images/install.sh predictor-gpu

FROM steps-packages AS train-gpu-packages
RUN --mount=type=bind,source=images,target=/images --mount=type=bind,from=tools,source=/tools,target=/tools \
    --mount=type=secret,id=ca --mount=type=secret,id=uv --mount=type=cache,target=/uv-cache \
    sh /images/install.sh train-gpu

# The images: packages, the library, who runs it.
FROM predictor-packages AS predictor
COPY --from=library /library /opt/library
ARG VERSION REVISION
LABEL org.opencontainers.image.title="kfp-fti/predictor" \
      org.opencontainers.image.description="Serves a model package over KServe's protocols" \
      org.opencontainers.image.version="$VERSION" org.opencontainers.image.revision="$REVISION"
USER 65532:65532
ENTRYPOINT ["python3", "-m", "fti.serve.predictor"]

FROM predictor-full-packages AS predictor-full
COPY --from=library /library /opt/library
ARG VERSION REVISION
LABEL org.opencontainers.image.title="kfp-fti/predictor-full" \
      org.opencontainers.image.description="The predictor with torch and shap: models without an ONNX form, exact explanations" \
      org.opencontainers.image.version="$VERSION" org.opencontainers.image.revision="$REVISION"
USER 65532:65532
ENTRYPOINT ["python3", "-m", "fti.serve.predictor"]

FROM predictor-gpu-packages AS predictor-gpu
COPY --from=library /library /opt/library
ARG VERSION REVISION
LABEL org.opencontainers.image.title="kfp-fti/predictor-gpu" \
      org.opencontainers.image.description="The predictor with ONNX Runtime and torch on CUDA, and shap" \
      org.opencontainers.image.version="$VERSION" org.opencontainers.image.revision="$REVISION"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
ENTRYPOINT ["python3", "-m", "fti.serve.predictor"]

FROM steps-packages AS steps
COPY --from=library /library /opt/library
ARG VERSION REVISION
LABEL org.opencontainers.image.title="kfp-fti/steps" \
      org.opencontainers.image.description="Every step of the pipelines but training" \
      org.opencontainers.image.version="$VERSION" org.opencontainers.image.revision="$REVISION"
USER 65532:65532
CMD ["python3"]

FROM train-packages AS train
COPY --from=library /library /opt/library
ARG VERSION REVISION
LABEL org.opencontainers.image.title="kfp-fti/train" \
      org.opencontainers.image.description="The step that trains, on CPUs" \
      org.opencontainers.image.version="$VERSION" org.opencontainers.image.revision="$REVISION"
USER 65532:65532
CMD ["python3"]

FROM train-gpu-packages AS train-gpu
COPY --from=library /library /opt/library
ARG VERSION REVISION
LABEL org.opencontainers.image.title="kfp-fti/train-gpu" \
      org.opencontainers.image.description="The step that trains, on CUDA" \
      org.opencontainers.image.version="$VERSION" org.opencontainers.image.revision="$REVISION"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
CMD ["python3"]

# `make sbom`: what is installed in one of them, as CycloneDX JSON.
FROM ${SBOM_OF} AS described
FROM tools AS describing
RUN --mount=type=bind,from=described,source=/opt,target=/opt \
    /tools/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.json /opt/fti/bin/python3
FROM scratch AS sbom
COPY --from=describing /sbom.json /
