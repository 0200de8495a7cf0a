//! Responses that are no answer: which status each failure has, and what it says.

use axum::extract::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use train::TrainError;

use super::headers;
use super::messages::Problem;
use super::worker::Unanswered;

/// A status and what went wrong, in words.
#[derive(Debug)]
pub(super) struct Failure(pub(super) StatusCode, pub(super) String);

impl Failure {
    /// A question that cannot be put: the field and the reason.
    pub(super) fn question(reason: String) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, reason)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, error) = self;
        let mut response = (status, Json(Problem { error })).into_response();
        headers::refusal(status, response.headers_mut());
        response
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<Unanswered> for Failure {
    fn from(reason: Unanswered) -> Self {
        match reason {
            Unanswered::Busy => Self(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests wait already: try again in a second".into(),
            ),
            Unanswered::Gone => Self(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the model has stopped answering: see the server's log, and start it again".into(),
            ),
            // What the question itself brings about is its sender's to mend.
            Unanswered::Refused(error @ (TrainError::Data(_) | TrainError::Config { .. })) => {
                Self::question(error.to_string())
            }
            Unanswered::Refused(error) => {
                Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
        }
    }
}
