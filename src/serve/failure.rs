//! Responses that are no answer: which status each failure has, and what it says.

use axum::extract::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use train::TrainError;

use super::headers;
use super::messages::Problem;
use super::outcome::Unanswered;

/// Characters of a long message that are kept. What was sent may be a megabyte of one word, and
/// is not sent back.
const KEPT: usize = 200;

/// A status and what went wrong, in words.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    error: String,
    /// Seconds after which it makes sense to ask again.
    again: Option<u64>,
    /// The field that it is about, and a short name for it, where they are known.
    about: Option<(&'static str, &'static str)>,
}

/// What a failure said, for who says it in another form.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) message: String,
    pub(super) param: Option<&'static str>,
    pub(super) code: Option<&'static str>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            again: None,
            about: None,
        }
    }

    /// The same, about a field, with a short name.
    pub(super) fn about(self, param: &'static str, code: &'static str) -> Self {
        Self {
            about: Some((param, code)),
            ..self
        }
    }

    /// A question that cannot be put: the field and the reason.
    pub(super) fn question(reason: String) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason)
    }

    /// The same, of the question at a place of a request.
    pub(super) fn at(self, place: usize) -> Self {
        Self {
            error: format!("questions[{place}]: {}", self.error),
            ..self
        }
    }

    /// The server could not answer now.
    pub(super) fn again(status: StatusCode, error: impl Into<String>, seconds: u64) -> Self {
        Self {
            again: Some(seconds),
            ..Self::new(status, error)
        }
    }

    /// The client has gone. Nobody reads it; the counters do.
    pub(super) fn gone() -> Self {
        let status = StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT);
        Self::new(status, "the client has gone")
    }
}

/// A message without the middle of what is too long.
fn clipped(text: String) -> String {
    let length = text.chars().count();
    if length <= KEPT {
        return text;
    }
    // The end says what was expected instead, and where.
    let (first, last) = (KEPT * 3 / 5, KEPT * 2 / 5);
    let head: String = text.chars().take(first).collect();
    let tail: String = text.chars().skip(length - last).collect();
    format!("{head} .. {tail}")
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let error = clipped(self.error);
        let said = Said {
            message: error.clone(),
            param: self
                .about
                .map(|(param, _)| param)
                .filter(|param| !param.is_empty()),
            code: self.about.map(|(_, code)| code),
        };
        let mut response = (self.status, Json(Problem { error })).into_response();
        response.extensions_mut().insert(said);
        headers::refusal(self.status, self.again, response.headers_mut());
        response
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<Unanswered> for Failure {
    fn from(reason: Unanswered) -> Self {
        match reason {
            Unanswered::Busy { again } => Self::again(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the queue is too long to answer this in time: try again in {again} s"),
                again,
            ),
            Unanswered::TooMuch { seconds, limit } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "needs about {seconds} s of work, more than its {limit} s: ask fewer questions in \
                     one request, or raise --timeout"
                ),
            ),
            Unanswered::Late { again } => Self::again(
                StatusCode::GATEWAY_TIMEOUT,
                "other requests took its time: ask fewer questions in one request, or ask again later",
                again,
            ),
            Unanswered::Gone => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the model has stopped answering: see the server's log, and start it again",
            ),
            Unanswered::Failed => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "a fault of the server: its log has a line about it",
            ),
            // What the question itself brings about is its sender's to mend.
            Unanswered::Refused {
                error: error @ (TrainError::Data(_) | TrainError::Config { .. }),
                ..
            } => Self::question(error.to_string()),
            Unanswered::Refused { error, .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_keep_their_ends() {
        assert_eq!(clipped("é".repeat(200)), "é".repeat(200));
        let long = format!("unknown field `{}`, expected `question`", "é".repeat(1000));
        let kept = clipped(long);
        assert!(kept.starts_with("unknown field `éé") && kept.ends_with("expected `question`"));
        assert_eq!(kept.chars().count(), 204);
    }
}
