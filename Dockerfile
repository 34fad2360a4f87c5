# Builds where it runs, and cross-compiles: docker buildx build --platform linux/amd64,linux/arm64 .
FROM --platform=${BUILDPLATFORM:-linux} golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
COPY kit/go.mod kit/go.sum kit/
RUN go mod download
COPY . .
ARG TARGETARCH
RUN CGO_ENABLED=0 GOARCH=$TARGETARCH go build -tags noembedded -trimpath -buildvcs=false -ldflags="-s -w -buildid=" -o /millrace .

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /millrace /millrace
# The sandbox's ledgers live here; without the sandbox nothing does.
COPY --from=build --chown=65532:65532 /tmp /data
USER 65532:65532
ENV DATA_DIR=/data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s CMD ["/millrace", "healthcheck"]
ENTRYPOINT ["/millrace"]
CMD ["serve"]
