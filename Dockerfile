# The book as an image: docker run -p 127.0.0.1:8888:8888 companion, then open the address it prints.
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends fonts-wqy-microhei make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 reader \
    && install --directory --owner reader --group reader \
        /home/reader/companion /home/reader/.cache /home/reader/.cache/companion /opt/venv

USER reader
WORKDIR /home/reader/companion
ENV VENV=/opt/venv PATH=/opt/venv/bin:$PATH

# A mirror of the package index, if PIP_INDEX_URL names one while building.
ARG PIP_INDEX_URL
COPY --chown=reader:reader requirements.txt requirements-test.txt ./
# TensorFlow's C++ headers, 256 MB, are for those who extend it in C++.
RUN python -m venv $VENV \
    && python -m pip install --no-cache-dir -r requirements.txt \
    && python -m pip install --no-cache-dir -r requirements-test.txt \
    && rm -rf $VENV/lib/python3.*/site-packages/tensorflow/include

COPY --chown=reader:reader . .
RUN make ready && python -c "import matplotlib.font_manager"

EXPOSE 8888 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8888/api', timeout=4)"]
CMD ["make", "lab", "LAB=--ip=0.0.0.0 --no-browser --ServerApp.port_retries=0"]
