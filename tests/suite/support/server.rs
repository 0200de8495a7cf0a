//! `uq4ct serve` as a process, and requests to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::programs::program;

/// `uq4ct serve` of the run `r`, stopped when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(root: &Path, flags: &[&str], token: Option<&str>) -> Self {
        let args = [&["serve", "r", "--port", "0"], flags].concat();
        let mut command = program(env!("CARGO_BIN_EXE_uq4ct"), root, &args);
        if let Some(token) = token {
            command.env("UQ4CT_TOKEN", token);
        }
        Self::listening(command)
    }

    /// One that may open so many files.
    pub(crate) fn with_files(root: &Path, files: usize, flags: &[&str]) -> Self {
        let limited = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        let own = env!("CARGO_BIN_EXE_uq4ct");
        let args = [&["-c", &limited, own, "serve", "r", "--port", "0"], flags].concat();
        Self::listening(program("sh", root, &args))
    }

    fn listening(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim()
            .rsplit("http://")
            .next()
            .unwrap()
            .replace("0.0.0.0", "127.0.0.1");
        Self { child, address }
    }

    /// Status, headers and body of one request.
    pub(crate) fn http(&self, head: &str, body: impl AsRef<[u8]>) -> (u16, String, String) {
        let mut stream = self.connect();
        let body = body.as_ref();
        let length = body.len();
        let host = match head.contains("Host:") {
            true => String::new(),
            false => format!("Host: {}\r\n", self.address),
        };
        let request =
            format!("{head}\r\n{host}Connection: close\r\nContent-Length: {length}\r\n\r\n");
        stream
            .write_all(&[request.as_bytes(), body].concat())
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String, String) {
        self.http(&format!("GET {path} HTTP/1.1"), "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let head = format!("POST {path} HTTP/1.1\r\nContent-Type: application/json");
        let (status, _, body) = self.http(&head, body.to_string());
        (status, serde_json::from_str(&body).unwrap())
    }

    /// A connection on which a request is written by hand.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).unwrap();
        stream
    }

    /// Everything that comes back for what is sent, until the server closes.
    pub(crate) fn raw(&self, sent: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        stream.write_all(sent.as_ref()).unwrap();
        rest(&mut stream)
    }

    /// The value of a counter without labels.
    pub(crate) fn counted(&self, name: &str) -> f64 {
        let text = self.get("/metrics").2;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("uq4ct_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }

    /// Asks the server to end, as a service manager would, and tells how long it took.
    pub(crate) fn stop(mut self) -> Duration {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(killed.unwrap().success());
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return began.elapsed();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("did not end");
    }
}

/// What still comes over a connection. A reset is an end like any other.
pub(crate) fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut part) {
        bytes.extend(&part[..read]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}
