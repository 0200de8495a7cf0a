//! What becomes of a request: its answers, or why there are none.

use schemars::JsonSchema;
use serde::Serialize;
use train::TrainError;
use train::answering::{Answer, RouterShare};

/// An answer, with the routing where it was asked for.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Reply {
    /// The answer to the question.
    #[serde(flatten)]
    pub answer: Answer,
    /// How every router spread the question; absent where it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<Vec<RouterShare>>,
}

/// Why a request gets no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// Too many requests wait already, or too much work for the time.
    Busy {
        /// Seconds after which it makes sense to ask again.
        again: u64,
    },
    /// The request's own work takes longer than its time.
    TooMuch {
        /// Seconds that it would take, at least.
        seconds: u64,
        /// Seconds that it has.
        limit: u64,
    },
    /// The time was not enough.
    Late {
        /// Seconds after which it makes sense to ask again.
        again: u64,
    },
    /// The thread that owns the model is gone.
    Gone,
    /// The model's pass ended in a fault of the program.
    Failed,
    /// A question cannot be put.
    Refused {
        /// Its place in the request, from 0, where it is known.
        place: Option<usize>,
        /// Why.
        error: TrainError,
    },
}
