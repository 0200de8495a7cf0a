//! Bodies of HTTP requests, to the server as a process.

use serde_json::json;

use super::{fuzz, one};
use crate::support::programs::train;
use crate::support::server::Server;

#[test]
fn http() {
    let root = tempfile::tempdir().unwrap();
    train(root.path(), "r", &[]);
    let server = Server::start(root.path(), &["--wait", "0"], None);
    let question =
        json!({"question": "Is it so?", "choices": ["true", "false"], "id": "q", "routing": true});
    let several =
        json!({"questions": [question, {"question": "Which?", "choices": ["true", "false"]}]});
    let seeds = [question, several].map(|body| one("body.json", body.to_string()));
    fuzz("http", &seeds, &[], |folder| {
        let body = std::fs::read(folder.join("body.json")).map_err(|e| e.to_string())?;
        let path = match body
            .windows(11)
            .take(3)
            .any(|part| part == b"\"questions\"")
        {
            true => "/v1/answers",
            false => "/v1/answer",
        };
        let head = format!("POST {path} HTTP/1.1\r\nContent-Type: application/json");
        let (status, _, said) = server.http(&head, body);
        assert!(status < 500, "{status} {said}");
        match status {
            200 => Ok(()),
            _ => Err(said),
        }
    });
    server.stop();
}
