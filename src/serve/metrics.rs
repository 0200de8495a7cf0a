//! What the server counts, in Prometheus's text format.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};
use prometheus_client::registry::{Metric, Registry};
use train::answering::{Answer, Decision};

/// The labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// The route, not the path: what a stranger types must not become a label.
    pub route: String,
    /// The status code of the response.
    pub status: u16,
}

/// The labels of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Given {
    /// `answer`, `abstain`, or `none` where no promise was asked for.
    pub decision: &'static str,
}

/// All counters of a server, with the registry that prints them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests by route and status.
    pub requests: Family<Request, Counter>,
    /// Seconds from a request to its response.
    pub seconds: Histogram,
    /// Requests that wait for the model.
    pub waiting: Gauge,
    /// Questions asked together.
    pub batch: Histogram,
    /// Seconds of the model over one batch.
    pub model_seconds: Histogram,
    answers: Family<Given, Counter>,
    confidence: Histogram,
    flu: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("uq4ct");
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 18));
        let shares = || Histogram::new(linear_buckets(0.1, 0.1, 10));
        let questions = Histogram::new(exponential_buckets(1.0, 2.0, 9));
        let to = &mut registry;
        Self {
            requests: counted(
                to,
                "requests",
                "Requests by route and status",
                Family::default(),
            ),
            seconds: counted(
                to,
                "request_seconds",
                "Seconds from a request to its response",
                seconds(),
            ),
            waiting: counted(
                to,
                "waiting_requests",
                "Requests that wait for the model",
                Gauge::default(),
            ),
            batch: counted(to, "batch_questions", "Questions asked together", questions),
            model_seconds: counted(
                to,
                "model_seconds",
                "Seconds of the model over one batch",
                seconds(),
            ),
            answers: counted(to, "answers", "Answers by decision", Family::default()),
            confidence: counted(
                to,
                "confidence",
                "Calibrated confidence of answers",
                shares(),
            ),
            flu: counted(to, "flu", "FLU of answers, high is certain", shares()),
            registry,
        }
    }
}

/// Registers a metric and gives it back: the registry's copy and this one count together.
fn counted<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Counts an answer. A confidence that drifts from what held-out questions showed is the first
    /// sign of a shift.
    pub fn answered(&self, answer: &Answer) {
        let decision = match answer.decision {
            Some(Decision::Answer) => "answer",
            Some(Decision::Abstain) => "abstain",
            None => "none",
        };
        self.answers.get_or_create(&Given { decision }).inc();
        self.confidence.observe(answer.confidence);
        if let Some(flu) = answer.flu {
            self.flu.observe(flu);
        }
    }

    /// The text that a Prometheus server reads.
    ///
    /// # Errors
    /// None in practice: text is written to memory.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
