//! Who may ask: the address, the `Host` and the `Authorization` of a request.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::failure::Failure;

/// Lets through who has the token. Without one the server is this machine's alone, and so must be
/// the name by which it was asked: a page of a stranger whose name resolves to this machine would
/// otherwise read the answers (DNS rebinding).
pub(super) async fn authorized(
    State(shared): State<Shared>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let allowed = match &shared.limits.token {
        Some(token) => bears(request.headers(), token),
        None => names_this_machine(request.headers()),
    };
    match allowed {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

/// Lets through what is addressed to one server, and to this one: two `Host` headers, or an
/// absolute URI of another server than the header's, are read differently by different programs
/// on the way.
pub(super) async fn addressed(
    State(shared): State<Shared>,
    request: Request<Body>,
    next: Next,
) -> Response {
    match one_address(&request, shared.limits.token.is_some()) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

fn one_address(request: &Request<Body>, any_name: bool) -> Result<(), Failure> {
    let refused = |reason: &str| Err(Failure::new(StatusCode::BAD_REQUEST, reason));
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_some() {
        return refused("two Host headers: send one");
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return refused("no Host header that can be read: send one");
    }
    let Some(named) = request.uri().authority() else {
        return Ok(());
    };
    if !host.is_some_and(|host| host.eq_ignore_ascii_case(named.as_str())) {
        return refused("the address names another server than the Host header");
    }
    match any_name || is_this_machine(named.as_str()) {
        true => Ok(()),
        false => refused("the address names another server: this one is no proxy"),
    }
}

fn names_this_machine(headers: &HeaderMap) -> Result<(), Failure> {
    let host = headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    match is_this_machine(host) {
        true => Ok(()),
        false => Err(Failure::new(
            StatusCode::FORBIDDEN,
            format!("ask this server as localhost, or give it a token; it was asked as {host:?}"),
        )),
    }
}

fn bears(headers: &HeaderMap, token: &str) -> Result<(), Failure> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().split_at_checked(7))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
        .map(|(_, token)| token);
    match given.is_some_and(|given| same(given, token.as_bytes())) {
        true => Ok(()),
        false => Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "give the server's token: Authorization: Bearer TOKEN",
        )),
    }
}

/// Whether a `Host` header names a loopback address.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let loopback = bare
        .parse::<std::net::IpAddr>()
        .is_ok_and(|ip| ip.is_loopback());
    loopback || bare.eq_ignore_ascii_case("localhost")
}

/// Compares in a time that does not depend on where two words differ.
fn same(given: &[u8], token: &[u8]) -> bool {
    let differ = given
        .iter()
        .zip(token)
        .fold(0, |differ, (a, b)| differ | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differ) == 0
}
