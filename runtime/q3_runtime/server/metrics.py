"""What Prometheus is told: fixed names, and labels whose values come from the server and never from a request."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Metrics:
    """One server's. Seconds are of wall time; a model is named as it is served."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(name, what, labels, registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, what, labels, buckets=buckets, registry=self.registry)

        self.requests = counter("q3_requests", "Requests answered", "route", "status")
        self.refused = counter("q3_refused", "Requests answered by an error, by its code", "code")
        self.cancelled = counter("q3_cancelled", "Requests whose client left before the answer", "route")
        self.truncated = counter("q3_truncated_texts", "Texts that were cut", "model")
        self.seconds = histogram(
            "q3_request_seconds", "From the end of the headers until the answer is ready", SECONDS, "route"
        )
        self.queue_seconds = histogram("q3_queue_seconds", "Until the first row ran", SECONDS, "model")
        self.tokenization_seconds = histogram("q3_tokenization_seconds", "Tokenizing a request", SECONDS, "model")
        self.texts = histogram("q3_request_texts", "Texts of a request", SIZES, "model")
        self.text_tokens = histogram("q3_text_tokens", "Tokens of a text", SIZES, "model")
        self.batch_seconds = histogram("q3_batch_seconds", "Running a batch", SECONDS, "model")
        self.batch_rows = histogram("q3_batch_rows", "Texts of a batch", SIZES, "model")
        self.batch_tokens = histogram("q3_batch_tokens", "Tokens of a batch, without padding", SIZES, "model")
        self.waiting_tokens = Gauge("q3_waiting_tokens", "Admitted and not answered", ["model"], registry=self.registry)
        self.ready = Gauge("q3_ready", "1 where requests are answered", registry=self.registry)

    def batch_ran(self, model: str, rows: int, tokens: int, seconds: float) -> None:
        """A batch is done."""
        self.batch_rows.labels(model).observe(rows)
        self.batch_tokens.labels(model).observe(tokens)
        self.batch_seconds.labels(model).observe(seconds)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
