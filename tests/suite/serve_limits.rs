//! `uq4ct serve` with clients that ask too much, leave, wait, or speak another language.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::programs::{text, train};
use crate::support::server::{Server, rest};

/// A directory with the finished run `r`, the same for all tests here.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = tempfile::tempdir().unwrap().keep();
        train(&root, "r", &[]);
        root
    })
}

fn question(text: &str) -> Value {
    json!({"question": text, "choices": ["true", "false"]})
}

/// Many long questions: seconds of work even for the tiny model.
fn many(questions: usize) -> String {
    let long = "is the sky over the old bridge as blue as it was on that morning ".repeat(12);
    json!({"questions": vec![question(&long); questions]}).to_string()
}

/// A whole request with such a body.
fn request(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Waits until nobody waits for the model any more.
fn idle_after(server: &Server) -> Duration {
    let began = Instant::now();
    while server.counted("waiting_requests") > 0.0 {
        assert!(began.elapsed() < Duration::from_secs(50), "still at work");
        std::thread::sleep(Duration::from_millis(50));
    }
    began.elapsed()
}

const LARGE: [&str; 4] = ["--max-questions", "60000", "--max-body", "100000000"];

#[test]
fn a_large_request_keeps_nobody_waiting_and_ends_with_its_client() {
    // Long, for the time that it needs is reckoned from a pace that other work slows.
    let patient = ["--timeout", "86400"];
    let server = Server::start(root(), &[&LARGE[..], &patient].concat(), None);
    for _ in 0..3 {
        assert_eq!(server.post("/v1/answer", &question("warm")).0, 200);
    }
    let mut large = server.connect();
    large
        .write_all(request("/v1/answers", &many(20_000)).as_bytes())
        .unwrap();
    let sent = Instant::now();
    while server.counted("waiting_requests") < 1.0 {
        assert!(sent.elapsed() < Duration::from_secs(60), "it does not wait");
        std::thread::sleep(Duration::from_millis(20));
    }
    for _ in 0..4 {
        let began = Instant::now();
        assert_eq!(server.post("/v1/answer", &question("short")).0, 200);
        let waited = began.elapsed();
        assert!(waited < Duration::from_secs(20), "{waited:?}");
    }
    assert_eq!(
        server.counted("waiting_requests"),
        1.0,
        "the large one was too quick to tell"
    );
    let asked = server.counted("batch_questions_sum");
    drop(large);
    idle_after(&server);
    let after = server.counted("batch_questions_sum");
    assert!(
        after < 10_000.0,
        "{asked} questions while the client was there, {after} in all"
    );
    // The request is counted when it has ended, a moment after nothing waits any more.
    let gone = Instant::now();
    let counted = r#"route="/v1/answers",status="499"} 1"#;
    while !server.get("/metrics").2.contains(counted) {
        assert!(
            gone.elapsed() < Duration::from_secs(20),
            "it is not counted"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(server.stop() < Duration::from_secs(20));
}

#[test]
fn what_cannot_be_answered_in_time_is_refused_and_what_can_is_not() {
    let server = Server::start(root(), &[&LARGE[..], &["--timeout", "1"]].concat(), None);
    for _ in 0..3 {
        assert_eq!(server.post("/v1/answer", &question("warm")).0, 200);
    }
    let began = Instant::now();
    let answer = server.raw(
        request("/v1/answers", &many(50_000)).replace("\r\nHost", "\r\nConnection: close\r\nHost"),
    );
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(
        answer.contains("s of work, more than its 1 s: ask fewer questions"),
        "{answer}"
    );
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(server.post("/v1/answer", &question("short")).0, 200);
    // A request whose rest never comes.
    let late = server.raw(
        "POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
    );
    assert!(late.starts_with("HTTP/1.1 408 "), "{late}");
    server.stop();
}

/// More at a time than may wait: told to come again, and when.
#[test]
fn a_full_queue_says_when_to_come_again() {
    let server = Server::start(root(), &["--queue", "1", "--wait", "1500"], None);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.post("/v1/answer", &question("first")).0);
        while server.counted("waiting_requests") < 1.0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let head = "POST /v1/answer HTTP/1.1\r\nContent-Type: application/json";
        let (status, head, said) = server.http(head, question("second").to_string());
        assert!(
            status == 503 && head.contains("retry-after: 1"),
            "{status} {head} {said}"
        );
        assert_eq!(first.join().unwrap(), 200);
    });
    server.stop();
}

#[test]
fn a_client_that_has_closed_its_side_gets_its_answer() {
    for (wait, interim) in [("0", false), ("4000", true)] {
        let server = Server::start(root(), &["--wait", wait], None);
        let mut stream = server.connect();
        let body = question("is the sky blue").to_string();
        stream
            .write_all(request("/v1/answer", &body).as_bytes())
            .unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let said = rest(&mut stream);
        let whole = said.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(whole.is_some(), interim, "{said}");
        let whole = whole.unwrap_or(&said);
        assert!(
            whole.starts_with("HTTP/1.1 200 ") && whole.contains("\"confidence\""),
            "{said}"
        );
        // One that has gone altogether looks the same for two seconds.
        if interim {
            let mut stream = server.connect();
            stream
                .write_all(request("/v1/answer", &body).as_bytes())
                .unwrap();
            drop(stream);
            let after = idle_after(&server);
            assert!(after < Duration::from_millis(3900), "{after:?}");
        }
        server.stop();
    }
}

#[test]
fn requests_are_addressed_to_this_server_once() {
    let server = Server::start(root(), &[], None);
    let close = "Connection: close\r\n\r\n";
    let host = &server.address;
    for (head, status) in [
        (format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n"), 200),
        (
            format!("GET http://{host}/healthz HTTP/1.1\r\nHost: {host}\r\n"),
            200,
        ),
        (
            format!("GET /v1/run HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n"),
            400,
        ),
        (
            format!("GET /v1/run HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n"),
            400,
        ),
        ("GET /v1/run HTTP/1.1\r\n".into(), 400),
        (
            format!("GET http://evil.example/v1/run HTTP/1.1\r\nHost: {host}\r\n"),
            400,
        ),
        (
            format!("GET http://{host}/v1/run HTTP/1.1\r\nHost: evil.example\r\n"),
            400,
        ),
        (
            "GET http://evil.example/healthz HTTP/1.1\r\nHost: evil.example\r\n".into(),
            400,
        ),
        ("GET /v1/run HTTP/1.1\r\nHost: evil.example\r\n".into(), 403),
    ] {
        let said = server.raw(format!("{head}{close}"));
        assert!(
            said.starts_with(&format!("HTTP/1.1 {status} ")),
            "{head:?}: {said}"
        );
    }
    // HTTP/2 would begin with a frame of settings.
    let said = server.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 4"),
        "{said:?}"
    );
    server.stop();
}

#[test]
fn errors_send_little_of_the_input_back() {
    let server = Server::start(root(), &[], None);
    let long = "Z".repeat(5000);
    let few = |said: &str| {
        let echoed = said.matches('Z').count();
        assert!(echoed <= 200 && said.len() < 1000, "{echoed} of it: {said}");
    };
    for body in [
        json!({"question": "q", "choices": ["a", "b"], long.clone(): 1}),
        json!({"question": "q", "choices": long}),
        json!({"question": "q", "choices": ["true", "false"], "routing": long}),
        json!({"question": " ", "choices": ["true", "false"], "id": long}),
        json!({"question": "q", "choices": [long, "b"], "id": long}),
        json!({"question": "q", "choices": [long, long], "id": long}),
        json!([long]),
        json!(long),
    ] {
        let (status, said) = server.post("/v1/answer", &body);
        assert!((400..500).contains(&status), "{status} {said}");
        few(said["error"].as_str().unwrap());
    }
    let head = format!("GET /v1/run HTTP/1.1\r\nHost: {long}.example");
    let (status, _, said) = server.http(&head, "");
    assert!((400..500).contains(&status), "{said}");
    few(&said);
    server.stop();
}

#[test]
fn half_open_connections_take_nothing_from_others() {
    let server = Server::with_files(root(), 64, &["--idle", "5"]);
    let mut waiting: Vec<TcpStream> = (0..300).map(|_| server.connect()).collect();
    for (number, stream) in waiting.iter_mut().enumerate() {
        let part = [
            "",
            "POST /v1/answer HT",
            "POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        ];
        // Many of them have been sent away already.
        let _ = stream.write_all(part[number % 3].as_bytes());
    }
    for number in 0..50 {
        let (status, said) = server.post("/v1/answer", &question(&format!("question {number}")));
        assert_eq!(status, 200, "{said}");
    }
    let more: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    let ended = server.stop();
    assert!(ended < Duration::from_secs(5), "{ended:?}");
    drop((waiting, more));
}

#[test]
fn an_unused_connection_is_closed() {
    let server = Server::start(root(), &["--idle", "1"], None);
    for begun in ["", "GET / HTTP/1.1\r\nHost: local"] {
        let began = Instant::now();
        server.raw(begun);
        let after = began.elapsed();
        assert!(
            after > Duration::from_millis(900) && after < Duration::from_secs(10),
            "{after:?}"
        );
    }
    server.stop();
}

/// The script of the long run, for some seconds.
#[test]
fn the_load_script_finds_nothing_wrong() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/load.py");
    let mut load = Command::new("python3");
    load.arg(script).arg(root().join("r"));
    load.args(["--program", env!("CARGO_BIN_EXE_uq4ct"), "--seconds", "6"]);
    load.args(["--choices", "true,false"]);
    let output = load.env_remove("RUST_LOG").output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for kind in ["one", "several", "slow", "malformed"] {
        assert!(said.contains(&format!("\n{kind} ")), "{said}");
    }
}
