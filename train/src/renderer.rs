//! Burn's `MetricsRenderer`, writing into the dashboard's state.

use std::error::Error;

use burn::train::LearnerSummary;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::MetricDefinition;
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};

use crate::dashboard::state::Phase;
use crate::telemetry::Telemetry;

/// Hands Burn's events to the telemetry.
pub(crate) struct Renderer {
    telemetry: Telemetry,
    validating: bool,
}

impl Renderer {
    /// A renderer for one training.
    pub(crate) fn new(telemetry: Telemetry) -> Self {
        Self {
            telemetry,
            validating: false,
        }
    }
}

impl MetricsRendererTraining for Renderer {
    // Values arrive whole through the taps, with more than a metric can carry; see
    // `metric::live::Tap`.
    fn update_train(&mut self, _: MetricState) {}

    fn update_valid(&mut self, _: MetricState) {}

    fn on_train_end(&mut self, _: Option<LearnerSummary>) -> Result<(), Box<dyn Error>> {
        Ok(())
    }
}

impl MetricsRendererEvaluation for Renderer {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl TrainingProgressLogger for Renderer {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {
        self.telemetry.phase(Phase::Training);
    }

    fn update_epoch(&mut self, _: usize) {}

    fn start_split(&mut self, split: &str, _: usize) {
        self.validating = !split.to_lowercase().starts_with("train");
    }

    fn update_split(&mut self, _: usize) {}

    fn end_split(&mut self) {
        if self.validating {
            self.telemetry.end_held_out();
        }
    }

    fn end(&mut self) {}

    // Burn reports every iteration here.
    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for Renderer {
    fn start_global_progress(&mut self, _: usize) {}

    fn start_test(&mut self, _: &str, _: usize) {}

    fn update_test_progress(&mut self, _: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricsRenderer for Renderer {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, _: MetricDefinition) {}
}
