//! Every header that the server sets itself. Those that it reads are in `access`.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// What the page may do: run its own script and ask this server, nothing else.
pub(super) const PAGE: [(HeaderName, &str); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// The format of `/metrics`.
pub(super) const METRICS: [(HeaderName, &str); 1] = [(
    header::CONTENT_TYPE,
    "application/openmetrics-text; version=1.0.0; charset=utf-8",
)];

/// Tells a client what a refusal means for its next request; `again` is in seconds.
pub(super) fn refusal(status: StatusCode, again: Option<u64>, headers: &mut HeaderMap) {
    if let Some(seconds) = again {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    match status {
        StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The rest of the request is not waited for.
        StatusCode::REQUEST_TIMEOUT => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
}
